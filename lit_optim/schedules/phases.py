"""A schedule is a sequence of phases: from where, to where, in which shape, for how long.

A schedule gives a factor for each update of a run; what it drives (the lr of a group) is its own
value times this factor. Ends are decided here, once:

- `ticks: end` (default): the first update of a phase is already under way and its last one is at
  its end. A warmup of W steps gives 1/W, 2/W ... 1, and the last update of the run is at the floor.
- `ticks: start`: the first update of a phase is at its start (warmup 0, 1/W ...), and the floor is
  reached one step after the end. Most of transformers, torch and optax count this way.

Under both a jump acts on the first update after its boundary, and past the end the curve stays
where it ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Duration, Horizon, parse

#: A shape goes from 0 to 1 while x does.
Shape = Callable[[float], float]
Ticks = Literal["end", "start"]


def linear(x: float) -> float:
    """A straight line."""
    return x


def cosine(x: float) -> float:
    """Half a wave: slow, fast, slow."""
    return (1 - math.cos(math.pi * x)) / 2


@dataclass(frozen=True)
class Phase:
    """From `start` to `end` in the given shape; without a length it takes what is left.

    `name` is what a message calls the length: the key a user has written.
    """

    start: float
    end: float
    shape: Shape = linear
    length: Duration | None = None
    name: str = "length"

    def at(self, x: float) -> float:
        """The factor at x in [0, 1] of the phase; its ends are exact."""
        if x >= 1:
            return self.end
        return self.start + (self.end - self.start) * self.shape(x)


@dataclass(frozen=True)
class Repeat:
    """A phase again and again for the rest of the run, each time `decay` times as high."""

    phase: Phase
    decay: float


@dataclass(frozen=True)
class Schedule:
    """Phases and how to count in them; `curve` fits them to a run.

    Args:
        phases: in order; one of them may take the rest of the run.
        total: the length of the schedule if it is not the length of the run.
        ticks: see the head of this file.

    Raises:
        ValueError: `total` or a length is not a duration, or `ticks` is neither end nor start.
    """

    phases: tuple[Phase | Repeat, ...]
    total: Duration | None = None
    ticks: Ticks = "end"

    def __post_init__(self) -> None:
        if self.ticks not in ("end", "start"):
            raise UsageError(f"ticks must be one of end, start, got {self.ticks!r}")
        if self.total is not None:
            amount, unit = parse("total", self.total)
            if unit == "%" or amount <= 0:
                raise UsageError(f"total must be steps, epochs or samples > 0, got {self.total!r}")
        for item in self.phases:
            phase = item.phase if isinstance(item, Repeat) else item
            if phase.length is not None:
                parse(phase.name, phase.length)

    @property
    def units(self) -> set[str]:
        """The units its durations are written in: "step", "%", "epoch", "sample"."""
        phases = [item.phase if isinstance(item, Repeat) else item for item in self.phases]
        durations = [self.total, *(phase.length for phase in phases)]
        return {parse("length", duration)[1] for duration in durations if duration is not None}

    def curve(self, horizon: Horizon) -> Curve:
        """This schedule over a run of known length.

        Raises:
            ValueError: the phases are longer than the run.
        """
        pieces, begin = [], 0
        for item in self.phases:
            phase = item.phase if isinstance(item, Repeat) else item
            left = horizon.steps - begin
            length = left if phase.length is None else horizon.resolve(phase.name, phase.length)
            if isinstance(item, Repeat):
                length = max(1, length)  # a share of a short run may round to nothing
                pieces.append(Piece(begin, left, phase, length, item.decay))
                begin = horizon.steps
                continue
            if length > left:
                raise UsageError(
                    f"{phase.name}={phase.length}: {length} steps, but the run has {horizon.steps}"
                    + (f" and {begin} of them are taken" if begin else "")
                )
            if length > 0 or begin == horizon.steps:
                pieces.append(Piece(begin, length, phase, length))
            begin += length
        return Curve(tuple(pieces), horizon.steps, self.ticks)


@dataclass(frozen=True)
class Piece:
    """A phase at its place in a run: `length` steps from `begin`, again every `period` steps."""

    begin: int
    length: int
    phase: Phase
    period: int
    decay: float = 1.0


@dataclass(frozen=True)
class Curve:
    """The factor of each update of a run of `total` steps; a pure function, in constant time."""

    pieces: tuple[Piece, ...]
    total: int
    ticks: Ticks

    def __call__(self, t: int) -> float:
        """The factor of the update with index t = 0, 1, ...; what follows the end stays there."""
        owner = min(t, self.total - 1)
        piece = next(p for p in self.pieces if owner < p.begin + p.length)
        cycle, _ = divmod(owner - piece.begin, piece.period)
        position = min(t + (self.ticks == "end"), self.total) - piece.begin - cycle * piece.period
        return piece.decay**cycle * piece.phase.at(position / piece.period)
