"""The schedules by name: one short function each, a name for a list of phases.

All take `total` (the length of the schedule if not that of the run) and `ticks` (`end`, or `start`
to count as transformers and torch do) beside their own arguments. Factors multiply the optimizer's
lr, group by group. Durations are `500` (optimizer steps), "5%" of the run, "2 epochs" or
"1000 samples".

Raises (all of them): ValueError naming the argument, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec, TypedDict

from typing_extensions import Unpack

from lit_optim.hyperparameters import check
from lit_optim.schedules.durations import Duration
from lit_optim.schedules.phases import Phase, Repeat, Schedule, Ticks, cosine

Share = Annotated[float, "in [0, 1]"]
P = ParamSpec("P")


class Counting(TypedDict, total=False):
    """The arguments that every schedule takes."""

    total: Duration | None
    ticks: Ticks


def checked(schedule: Callable[P, Schedule]) -> Callable[P, Schedule]:
    """Hold the keyword arguments against their annotations before the phases are made."""

    @wraps(schedule)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Schedule:
        check(schedule, kwargs)
        return schedule(*args, **kwargs)

    return wrapper


def warm(warmup: Duration) -> Phase:
    """The first phase of anything: from 0 to the peak in a straight line."""
    return Phase(0.0, 1.0, length=warmup, name="warmup")


@checked
def constant(warmup: Duration = 0, **counting: Unpack[Counting]) -> Schedule:
    """1 all the way, after a warmup if one is asked for."""
    return Schedule((warm(warmup), Phase(1.0, 1.0)), **counting)


@checked
def linear(
    warmup: Duration = 0, min_lr_ratio: Share = 0.0, **counting: Unpack[Counting]
) -> Schedule:
    """1 - (1 - min) x after a warmup if asked for. Defazio et al. 2023, arXiv:2310.07831."""
    return Schedule((warm(warmup), Phase(1.0, min_lr_ratio)), **counting)


@checked
def cosine_warmup(
    warmup: Duration = "5%", min_lr_ratio: Share = 0.0, **counting: Unpack[Counting]
) -> Schedule:
    """Warmup, then min + (1 - min) (1 + cos πx) / 2. Loshchilov & Hutter 2016, 1608.03983."""
    return Schedule((warm(warmup), Phase(1.0, min_lr_ratio, cosine)), **counting)


@checked
def step(
    step_size: Duration = "30%",
    gamma: Annotated[float, "in (0, 1]"] = 0.1,
    warmup: Duration = 0,
    **counting: Unpack[Counting],
) -> Schedule:
    """gamma^floor(t / step_size): down by a factor every step_size. torch's StepLR."""
    steps = Repeat(Phase(1.0, 1.0, length=step_size, name="step_size"), decay=gamma)
    return Schedule((warm(warmup), steps), **counting)


def none() -> None:
    """No scheduler: the lr stays what the optimizer was given."""
