"""Segments, of which a schedule is a list: phases, repeats of phases, and formulas.

Levels are factors of a group's base lr, or absolute values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Duration, RunFraction
from lit_optim.schedules.shapes import RatioShape, Shape, linear


@dataclass(frozen=True)
class AbsoluteLevel:
    """A level that is the value itself, not a factor of a group's lr.

    Args:
        value: the lr, or the value of another scheduled hyperparameter.
        name: its name in messages: the key that the user wrote.
    """

    value: float
    name: str = "min_lr"


Level = float | AbsoluteLevel
#: The largest ln(last round / first round) of a repeat.
MAX_LOG_GROWTH = 40


def level_value(level: Level, lr: float) -> float:
    """The level for a group whose base lr is `lr`."""
    return level.value if isinstance(level, AbsoluteLevel) else level * lr


@dataclass(frozen=True)
class Phase:
    """A change from `start` to `end` in the given shape; without a length it takes what is left.

    Args:
        start: the level at x = 0; None: where the previous phase ended.
        end: the level at x = 1.
        shape: how the value moves between them.
        length: how long it lasts.
        until: the position in the run at which it ends, instead of a length.
        name: the name of the length in messages: the key that the user wrote.
        levels: the number of equal parts with one level each, from `start` to `end`; 0: smooth.

    Raises:
        ValueError: the shape depends on the ratio of the two levels, and one of them is 0.
    """

    start: Level | None
    end: Level
    shape: Shape | RatioShape = linear
    length: Duration | RunFraction | None = None
    until: Duration | None = None
    name: str = "length"
    levels: int = 0

    def __post_init__(self) -> None:
        levels = [level_value(level, 1.0) for level in (self.start, self.end) if level is not None]
        if isinstance(self.shape, RatioShape) and min(levels) <= 0:
            raise UsageError(
                f"shape={self.shape.name} decays by a factor, so it must start and end above "
                "0; exponential(0.01), power(2) and the other shapes may reach 0"
            )

    def value_at(
        self, offset: float, owned: float, length: float, updates: float, lr: float
    ) -> float:
        """The value at a position within the phase; exact at both ends.

        Args:
            offset: steps since the phase began.
            owned: updates since the first one of this phase; `levels` change by it, whatever the
                step alignment.
            length: in steps.
            updates: the updates of this phase: `length`, or one more if the first update is at
                its start.
            lr: the base lr of the group.
        """
        assert self.start is not None
        start, end = level_value(self.start, lr), level_value(self.end, lr)
        if length <= 0:  # a single update, at the start; see `step_alignment: both`
            x = 0.0
        elif self.levels:
            # the end of the phase has the last level, even with fewer updates than levels
            last = self.levels - 1
            x = min(owned * self.levels // updates, last) / last if offset < length else 1.0
        else:
            x = min(float(offset / length), 1.0)
        shape = self.shape
        if isinstance(shape, RatioShape):  # a group whose base lr is 0 has no ratio
            log_ratio = math.log(end) - math.log(start) if start and end else None
            shape = linear if log_ratio is None else shape.for_log_ratio(log_ratio)
        s = shape(x)
        value = end if s == 1 else start + (end - start) * s
        return min(max(value, min(start, end)), max(start, end))  # rounding may overshoot


@dataclass(frozen=True)
class Repeat:
    """Phases repeated in rounds.

    Args:
        phases: the phases of one round.
        decay: the height above the floor is multiplied by this after each round.
        growth: the length is multiplied by this after each round.
        fade: the height above the floor is multiplied by this after each step.
        floor: the level that `decay` and `fade` approach.
        count: the number of rounds in its length. Then the length of a phase is a percentage of
            its round, and the phases without one share the rest of the round.
        length: how long all rounds last; None: it takes what is left.
        name: the name of the length in messages.

    Raises:
        ValueError: `growth` and `count` would make the first round vanishingly short.
    """

    phases: tuple[Phase, ...]
    decay: float = 1.0
    growth: float = 1
    fade: float = 1.0
    floor: Level = 0.0
    count: int | None = None
    length: Duration | None = None
    name: str = "length"

    def __post_init__(self) -> None:
        if self.count is not None and self.count * math.log(self.growth) > MAX_LOG_GROWTH:
            raise UsageError(
                f"{self.count} rounds that grow by {self.growth:g} do not fit into any run"
            )


@dataclass(frozen=True)
class InverseSqrt:
    """The formula peak / √(1 + x)."""

    peak: float = 1.0

    def __call__(self, x: float) -> float:
        """The factor at x."""
        return float(self.peak / (1 + x) ** 0.5)


@dataclass(frozen=True)
class Geometric:
    """The formula gamma^x."""

    gamma: float

    def __call__(self, x: float) -> float:
        """The factor at x."""
        return float(self.gamma**x)


@dataclass(frozen=True)
class FormulaSegment:
    """A formula of x = (steps since its start) / scale.

    Args:
        formula: returns a factor; must be picklable.
        scale: the duration that is x = 1.
        name: the name of the scale in messages.
        length: how long it lasts; None: it takes what is left.
        length_name: the name of the length in messages.
    """

    formula: Callable[[float], float]
    scale: Duration
    name: str = "scale"
    length: Duration | None = None
    length_name: str = "length"


Segment = Phase | Repeat | FormulaSegment


def inner_phases(segment: Segment) -> Iterator[Phase]:
    """The phases that a segment contains."""
    if isinstance(segment, Phase):
        yield segment
    elif isinstance(segment, Repeat):
        yield from segment.phases


def check_floor(floor: Level, lr: float) -> None:
    """Check that an absolute floor is not above `lr`.

    Raises:
        ValueError: it is.
    """
    if isinstance(floor, AbsoluteLevel) and floor.value > lr:
        raise UsageError(f"{floor.name}={floor.value:g} is above the optimizer's lr, {lr:g}")
