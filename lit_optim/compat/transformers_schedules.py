"""transformers' schedules by transformers' names, where ours have others, with its arguments.

They give transformers' values: warmup from 0, the floor one step after the end. Past the end the
value stays, where transformers' cosines climb again. `num_warmup_steps` in (0, 1) is a share of the
run, rounded up, as TrainingArguments' warmup_ratio was. `num_training_steps: null` is the run's.

Raises (all of them): ValueError naming the argument, what was given and what is allowed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from lit_optim.errors import UsageError
from lit_optim.schedules.core import Ticks
from lit_optim.schedules.durations import Duration, Share
from lit_optim.schedules.library import Positive, checked
from lit_optim.schedules.phase_spec import Absolute, Level, Phase, Repeat
from lit_optim.schedules.phases import Phases
from lit_optim.schedules.shapes import Shape, cosine, linear, mirror_sqrt, sqrt, waves

Ratio = Annotated[float, "in [0, 1]"]
Lr = Annotated[float, ">= 0"]
Warmup = Annotated[int | float | str, "such as 500 (steps), 0.1 (of the run), 5% or 2 epochs"]
Curved = Literal["linear", "cosine", "1-sqrt"]


def rise(num_warmup_steps: Warmup, start: Level = 0.0, shape: Shape = linear) -> Phase:
    """The warmup."""
    length: Duration | Share
    if isinstance(num_warmup_steps, float) and 0 < num_warmup_steps < 1:
        length = Share(num_warmup_steps, up=True)
    else:
        whole = isinstance(num_warmup_steps, float) and num_warmup_steps.is_integer()
        length = int(num_warmup_steps) if whole else num_warmup_steps  # type: ignore[assignment]
    return Phase(start, 1.0, shape, length=length, name="num_warmup_steps")


def floor_of(min_lr: float | None, min_lr_rate: float | None) -> Level:
    """The floor, of which transformers wants one; here it is a tenth without.

    Raises:
        ValueError: both are given.
    """
    if min_lr is not None and min_lr_rate is not None:
        raise UsageError(f"min_lr={min_lr:g} and min_lr_rate={min_lr_rate:g}: give one of them")
    if min_lr is not None:
        return Absolute(min_lr)
    return 0.1 if min_lr_rate is None else min_lr_rate


def wave(num_cycles: float) -> Shape:
    """Half a wave by default, exact at its end."""
    return cosine if num_cycles == 0.5 else waves(num_cycles)


@checked
def constant_with_warmup(
    num_warmup_steps: Warmup = 0, num_training_steps: Duration | None = None
) -> Phases:
    """Up in a straight line, then 1.

    transformers' `constant_with_warmup`.
    """
    phases = (rise(num_warmup_steps), Phase(1.0, 1.0))
    return Phases(phases, total=num_training_steps, ticks="start", whole=False)


@checked
def cosine_with_restarts(
    num_warmup_steps: Warmup = 0,
    num_training_steps: Duration | None = None,
    num_cycles: Annotated[int, "> 0"] = 1,
) -> Phases:
    """Warmup, then so many cosines, each from the peak.

    transformers' `cosine_with_restarts`; Loshchilov & Hutter 2016, arXiv:1608.03983.
    """
    fall = Repeat((Phase(1.0, 0.0, cosine),), count=num_cycles)
    return Phases(
        (rise(num_warmup_steps), fall), total=num_training_steps, ticks="start", whole=False
    )


@checked
def cosine_with_min_lr(
    num_warmup_steps: Warmup = 0,
    num_training_steps: Duration | None = None,
    num_cycles: Positive = 0.5,
    min_lr: Lr | None = None,
    min_lr_rate: Ratio | None = None,
) -> Phases:
    """Warmup, then a cosine to a floor.

    transformers' `cosine_with_min_lr`; an absolute min_lr is the floor of every group, where
    transformers takes its ratio to the first lr.
    """
    floor = floor_of(min_lr, min_lr_rate)
    fall = Phase(1.0, floor, wave(num_cycles))
    return Phases(
        (rise(num_warmup_steps), fall), total=num_training_steps, ticks="start", whole=False
    )


@checked
def cosine_warmup_with_min_lr(
    num_warmup_steps: Warmup = 0,
    num_training_steps: Duration | None = None,
    num_cycles: Positive = 0.5,
    min_lr: Lr | None = None,
    min_lr_rate: Ratio | None = None,
    warmup_lr_rate: Ratio | None = None,
) -> Phases:
    """Warmup whose first update trains, then a cosine that reaches its floor.

    transformers' `cosine_warmup_with_min_lr`, which counts as we do (`ticks: end`), or with a
    `warmup_lr_rate` as OneCycleLR does (`ticks: both`).
    """
    floor = floor_of(min_lr, min_lr_rate)
    ticks: Ticks = "end" if warmup_lr_rate is None or not num_warmup_steps else "both"
    up = rise(num_warmup_steps, warmup_lr_rate or 0.0)
    fall = Phase(1.0, floor, wave(num_cycles))
    return Phases((up, fall), total=num_training_steps, ticks=ticks, whole=False)


@checked
def warmup_stable_decay(
    num_warmup_steps: Warmup = 0,
    num_decay_steps: Duration = "20%",
    num_training_steps: Duration | None = None,
    num_stable_steps: Duration | None = None,
    warmup_type: Curved = "linear",
    decay_type: Curved = "cosine",
    min_lr_ratio: Ratio = 0.0,
    num_cycles: Positive = 0.5,
) -> Phases:
    """Warmup from the floor, stable, then down to the floor.

    transformers' `warmup_stable_decay`; Hu et al. 2024, MiniCPM, arXiv:2404.06395.
    """
    ups = {"linear": linear, "cosine": cosine, "1-sqrt": mirror_sqrt}
    downs = {"linear": linear, "cosine": wave(num_cycles), "1-sqrt": sqrt}
    phases = (
        rise(num_warmup_steps, min_lr_ratio, ups[warmup_type]),
        Phase(1.0, 1.0, length=num_stable_steps, name="num_stable_steps"),
        Phase(1.0, min_lr_ratio, downs[decay_type], length=num_decay_steps, name="num_decay_steps"),
        Phase(min_lr_ratio, min_lr_ratio) if num_stable_steps is not None else None,
    )
    given = tuple(phase for phase in phases if phase is not None)
    return Phases(given, total=num_training_steps, ticks="start", whole=False)
