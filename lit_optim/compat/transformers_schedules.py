"""transformers' schedules under transformers' names, with its arguments.

They have transformers' values: warmup from 0, and the floor one step after the end. After the end
the value stays constant, where transformers' cosines rise again. `num_warmup_steps` in (0, 1) is a
fraction of the run, rounded up, as TrainingArguments' warmup_ratio was. `num_training_steps: null`
is the length of the run. Schedules whose names are the same here are in `library`.

Raises (all of them): ValueError naming the argument, the value given and what is allowed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from lit_optim.errors import UsageError
from lit_optim.schedules.arguments import Fraction, NonNegative, Positive
from lit_optim.schedules.core import StepAlignment
from lit_optim.schedules.durations import Duration, RunFraction
from lit_optim.schedules.phase_schedule import Phases
from lit_optim.schedules.phase_spec import AbsoluteLevel, Level, Phase, Repeat, Segment
from lit_optim.schedules.registry import schedule
from lit_optim.schedules.shapes import Shape, cosine, linear, mirror_sqrt, sqrt, waves

Warmup = Annotated[int | float | str, "such as 500 (steps), 0.1 (of the run), 5% or 2 epochs"]
ShapeName = Literal["linear", "cosine", "1-sqrt"]


def warmup_phase(num_warmup_steps: Warmup, start: Level = 0.0, shape: Shape = linear) -> Phase:
    """Warmup from `start` to the peak."""
    length: Duration | RunFraction
    if isinstance(num_warmup_steps, float) and 0 < num_warmup_steps < 1:
        length = RunFraction(num_warmup_steps, rounds_up=True)
    else:
        is_whole = isinstance(num_warmup_steps, float) and num_warmup_steps.is_integer()
        length = int(num_warmup_steps) if is_whole else num_warmup_steps  # type: ignore[assignment]
    return Phase(start, 1.0, shape, length=length, name="num_warmup_steps")


def floor_level(min_lr: float | None, min_lr_rate: float | None) -> Level:
    """The floor: an lr or a ratio; a tenth by default, where transformers requires one of them.

    Raises:
        ValueError: both are given.
    """
    if min_lr is not None and min_lr_rate is not None:
        raise UsageError(
            f"min_lr={min_lr:g} and min_lr_rate={min_lr_rate:g}: give only one of them"
        )
    if min_lr is not None:
        return AbsoluteLevel(min_lr)
    return 0.1 if min_lr_rate is None else min_lr_rate


def count_like_transformers(*phases: Segment, total: Duration | None) -> Phases:
    """Phases whose steps are counted as in transformers."""
    return Phases(phases, total=total, step_alignment="start", must_fit=False)


def cosine_waves(num_cycles: float) -> Shape:
    """Cosine waves; half a wave, the default, is exact at its end."""
    return cosine if num_cycles == 0.5 else waves(num_cycles)


@schedule
def constant_with_warmup(
    num_warmup_steps: Warmup = 0, num_training_steps: Duration | None = None
) -> Phases:
    """Linear warmup, then constant lr.

    transformers' `constant_with_warmup`.
    """
    return count_like_transformers(
        warmup_phase(num_warmup_steps), Phase(1.0, 1.0), total=num_training_steps
    )


@schedule
def cosine_with_restarts(
    num_warmup_steps: Warmup = 0,
    num_training_steps: Duration | None = None,
    num_cycles: Annotated[int, "> 0"] = 1,
) -> Phases:
    """Linear warmup, then cosine decay with warm restarts.

    transformers' `cosine_with_restarts`; Loshchilov & Hutter 2016, arXiv:1608.03983.
    """
    decay = Repeat((Phase(1.0, 0.0, cosine),), count=num_cycles)
    return count_like_transformers(warmup_phase(num_warmup_steps), decay, total=num_training_steps)


@schedule
def cosine_with_min_lr(
    num_warmup_steps: Warmup = 0,
    num_training_steps: Duration | None = None,
    num_cycles: Positive = 0.5,
    min_lr: NonNegative | None = None,
    min_lr_rate: Fraction | None = None,
) -> Phases:
    """Linear warmup, then cosine decay to a floor.

    transformers' `cosine_with_min_lr`. An absolute min_lr is the floor of every group, where
    transformers uses its ratio to the first group's lr.
    """
    floor = floor_level(min_lr, min_lr_rate)
    decay = Phase(1.0, floor, cosine_waves(num_cycles))
    return count_like_transformers(warmup_phase(num_warmup_steps), decay, total=num_training_steps)


@schedule
def cosine_warmup_with_min_lr(
    num_warmup_steps: Warmup = 0,
    num_training_steps: Duration | None = None,
    num_cycles: Positive = 0.5,
    min_lr: NonNegative | None = None,
    min_lr_rate: Fraction | None = None,
    warmup_lr_rate: Fraction | None = None,
) -> Phases:
    """Linear warmup with a nonzero first lr, then cosine decay that reaches its floor.

    transformers' `cosine_warmup_with_min_lr`. It has `step_alignment: end`, or `both` with a
    `warmup_lr_rate`.
    """
    floor = floor_level(min_lr, min_lr_rate)
    starts_above_0 = warmup_lr_rate is not None and num_warmup_steps
    step_alignment: StepAlignment = "both" if starts_above_0 else "end"
    warmup = warmup_phase(num_warmup_steps, warmup_lr_rate or 0.0)
    decay = Phase(1.0, floor, cosine_waves(num_cycles))
    return Phases(
        (warmup, decay), total=num_training_steps, step_alignment=step_alignment, must_fit=False
    )


@schedule
def warmup_stable_decay(
    num_warmup_steps: Warmup = 0,
    num_decay_steps: Duration = "20%",
    num_training_steps: Duration | None = None,
    num_stable_steps: Duration | None = None,
    warmup_type: ShapeName = "linear",
    decay_type: ShapeName = "cosine",
    min_lr_ratio: Fraction = 0.0,
    num_cycles: Positive = 0.5,
) -> Phases:
    """Warmup from a floor, constant lr, then decay to the floor.

    transformers' `warmup_stable_decay`; Hu et al. 2024, MiniCPM, arXiv:2404.06395.
    """
    ups = {"linear": linear, "cosine": cosine, "1-sqrt": mirror_sqrt}
    downs = {"linear": linear, "cosine": cosine_waves(num_cycles), "1-sqrt": sqrt}
    phases = (
        warmup_phase(num_warmup_steps, min_lr_ratio, ups[warmup_type]),
        Phase(1.0, 1.0, length=num_stable_steps, name="num_stable_steps"),
        Phase(1.0, min_lr_ratio, downs[decay_type], length=num_decay_steps, name="num_decay_steps"),
        Phase(min_lr_ratio, min_lr_ratio) if num_stable_steps is not None else None,
    )
    given = (phase for phase in phases if phase is not None)
    return count_like_transformers(*given, total=num_training_steps)
