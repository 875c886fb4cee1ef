"""Arguments that several schedules share: their types and the phases they stand for."""

from __future__ import annotations

from typing import Annotated, TypedDict

from lit_optim.errors import UsageError
from lit_optim.schedules.core import StepAlignment
from lit_optim.schedules.durations import Duration
from lit_optim.schedules.phase_spec import AbsoluteLevel, Level, Phase

Fraction = Annotated[float, "in [0, 1]"]
Positive = Annotated[float, "> 0"]
NonNegative = Annotated[float, ">= 0"]
Gamma = Annotated[float, "in (0, 1]"]


class CommonArguments(TypedDict, total=False):
    """The arguments that every schedule of this project takes.

    Args:
        total: the length of the schedule, if it is not that of the run.
        step_alignment: see `phases`.
    """

    total: Duration | None
    step_alignment: StepAlignment


def warmup_phase(warmup: Duration) -> Phase:
    """Linear warmup from 0 to the peak."""
    return Phase(0.0, 1.0, length=warmup, name="warmup")


def floor_level(min_lr_ratio: float | None, min_lr: float | None) -> Level:
    """The floor: a ratio of the optimizer's lr, or an lr; 0 by default.

    Raises:
        ValueError: both are given.
    """
    if min_lr is None:
        return min_lr_ratio or 0.0
    if min_lr_ratio:
        raise UsageError(
            f"min_lr={min_lr:g} and min_lr_ratio={min_lr_ratio:g}: give only one of them"
        )
    return AbsoluteLevel(min_lr)
