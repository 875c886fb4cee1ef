"""What a schedule is made of: phases, rounds of them, and formulas.

Levels are factors of a group's own lr, or `Absolute` ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Duration, Share
from lit_optim.schedules.shapes import Ratio, Shape, linear


@dataclass(frozen=True)
class Absolute:
    """A level that is no factor of a group's lr but the value itself.

    Args:
        value: of the lr, or of whatever is scheduled.
        name: what messages call it: the key a user has written.
    """

    value: float
    name: str = "min_lr"


Level = float | Absolute
#: A logarithm: the last of some rounds is no more than so many times as long as the first.
LONGEST = 40


def value_of(level: Level, lr: float) -> float:
    """The level for a group whose own lr is `lr`."""
    return level.value if isinstance(level, Absolute) else level * lr


@dataclass(frozen=True)
class Phase:
    """From `start` to `end` in the given shape; without a length it takes what is left.

    Args:
        start: the level at x = 0; None: where the phase before it has ended.
        end: the level at x = 1.
        shape: between them.
        length: how long.
        until: instead of a length, the place in the run where it ends.
        name: what a message calls the length: the key a user has written.
        levels: so many equal parts of one level each, from `start` to `end`; 0: smoothly.

    Raises:
        ValueError: a shape that depends on the ratio of the ends, and one of them is 0.
    """

    start: Level | None
    end: Level
    shape: Shape | Ratio = linear
    length: Duration | Share | None = None
    until: Duration | None = None
    name: str = "length"
    levels: int = 0

    def __post_init__(self) -> None:
        ends = [value_of(level, 1.0) for level in (self.start, self.end) if level is not None]
        if isinstance(self.shape, Ratio) and min(ends) <= 0:
            raise UsageError(
                f"shape={self.shape.name} falls by a factor, so it must start and end above 0; "
                "exponential(0.01), power(2) and the others need not"
            )

    def at(self, offset: float, owned: float, length: float, updates: float, lr: float) -> float:
        """The value at a place in the phase; its ends are exact.

        Args:
            offset: steps since its beginning.
            owned: updates since the first that it owns; levels change there, under all ticks.
            length: in steps.
            updates: that it owns: one more than steps, if the first is at its start.
            lr: the group's own.
        """
        assert self.start is not None
        start, end = value_of(self.start, lr), value_of(self.end, lr)
        if length <= 0:  # it is one update, at its start; see `ticks: both`
            x = 0.0
        elif self.levels:
            # what is at the end has the last level, also with fewer updates than levels
            last = self.levels - 1
            x = min(owned * self.levels // updates, last) / last if offset < length else 1.0
        else:
            x = min(float(offset / length), 1.0)
        shape = self.shape
        if isinstance(shape, Ratio):  # of a group whose own lr is 0 there is none
            shape = shape.of(math.log(end) - math.log(start)) if start and end else linear
        s = shape(x)
        value = end if s == 1 else start + (end - start) * s
        return min(max(value, min(start, end)), max(start, end))  # rounding may pass an end


@dataclass(frozen=True)
class Repeat:
    """Phases again and again.

    Args:
        phases: one round of them.
        decay: each round is so many times as high over the floor as the one before.
        growth: each round is so many times as long.
        fade: what the height is multiplied by at each step.
        floor: the level that `decay` and `fade` approach.
        count: so many rounds in all of its length. Then the length of a phase is a share of its
            round, and those without one share what is left of it.
        length: how long in all; None: it takes what is left.
        name: what a message calls the length.

    Raises:
        ValueError: the first of so many rounds would be next to nothing.
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
        if self.count is not None and self.count * math.log(self.growth) > LONGEST:
            raise UsageError(f"{self.count} rounds that grow by {self.growth:g} fit no run")


@dataclass(frozen=True)
class InverseSqrt:
    """A formula: peak / √(1 + x)."""

    peak: float = 1.0

    def __call__(self, x: float) -> float:
        """Its value."""
        return float(self.peak / (1 + x) ** 0.5)


@dataclass(frozen=True)
class Geometric:
    """A formula: gamma^x."""

    gamma: float

    def __call__(self, x: float) -> float:
        """Its value."""
        return float(self.gamma**x)


@dataclass(frozen=True)
class Free:
    """A formula of its own: of the steps since its start, over `scale`.

    Args:
        formula: gives a factor; an object that can be pickled.
        scale: in what its argument is counted.
        name: what a message calls the scale.
        length: how long; None: it takes what is left.
        length_name: what a message calls the length.
    """

    formula: Callable[[float], float]
    scale: Duration
    name: str = "scale"
    length: Duration | None = None
    length_name: str = "length"


Item = Phase | Repeat | Free


def phases_of(item: Item) -> Iterator[Phase]:
    """The phases in it."""
    if isinstance(item, Phase):
        yield item
    elif isinstance(item, Repeat):
        yield from item.phases


def floor_below(floor: Level, lr: float) -> None:
    """Refuse a floor that is a lr above this one.

    Raises:
        ValueError: naming both.
    """
    if isinstance(floor, Absolute) and floor.value > lr:
        raise UsageError(f"{floor.name}={floor.value:g} is above the optimizer's lr, {lr:g}")
