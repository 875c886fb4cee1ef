"""A schedule is a sequence of phases: from where, to where, in which shape, for how long.

Levels are factors of a group's own lr, or `Absolute` ones. Ends are decided here, once:

- `ticks: end` (default): the first update of a phase is already under way and its last one is at
  its end. A warmup of W steps gives 1/W, 2/W ... 1, and the last update of the run is at the floor.
- `ticks: start`: the first update of a phase is at its start (warmup 0, 1/W ...), and the floor is
  reached one step after the end. Most of transformers, torch and optax count this way.
- `ticks: both`: as `end`, but the first update of the run is at the start of its phase. torch's
  OneCycleLR counts this way.

Under all a jump acts on the first update after its boundary, and past the end the curve stays
where it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Duration, Horizon, Share, parse
from lit_optim.schedules.schedule import Curve, Schedule, Ticks
from lit_optim.schedules.shapes import Shape, linear

Interval = Literal["step", "epoch"]


@dataclass(frozen=True)
class Absolute:
    """A level that is no factor of a group's lr but the value itself."""

    value: float


Level = float | Absolute


def value_of(level: Level, lr: float) -> float:
    """The level for a group whose own lr is `lr`."""
    return level.value if isinstance(level, Absolute) else level * lr


@dataclass(frozen=True)
class Phase:
    """From `start` to `end` in the given shape; without a length it takes what is left.

    Args:
        start: the level at x = 0.
        end: the level at x = 1.
        shape: between them.
        length: how long.
        until: instead of a length, the place in the run where it ends.
        name: what a message calls the length: the key a user has written.
    """

    start: Level
    end: Level
    shape: Shape = linear
    length: Duration | Share | None = None
    until: Duration | None = None
    name: str = "length"

    def at(self, x: float, lr: float) -> float:
        """The value at x in [0, 1] of the phase; its ends are exact."""
        start, end = value_of(self.start, lr), value_of(self.end, lr)
        s = self.shape(min(x, 1.0))
        return end if s == 1 else start + (end - start) * s


@dataclass(frozen=True)
class Repeat:
    """Phases again and again for the rest of the run.

    Args:
        phases: one round of them.
        decay: each round is so many times as high over the floor as the one before.
        growth: each round is so many times as long.
        fade: what the height is multiplied by at each step.
        floor: the level that `decay` and `fade` approach.
        count: so many equal rounds in what is left, instead of the lengths of the phases.
    """

    phases: tuple[Phase, ...]
    decay: float = 1.0
    growth: int = 1
    fade: float = 1.0
    floor: Level = 0.0
    count: int | None = None


@dataclass(frozen=True)
class Free:
    """For the rest of the run a formula of its own: of the steps since its start, over `scale`."""

    formula: Callable[[float], float]
    scale: Duration
    name: str = "scale"


Item = Phase | Repeat | Free


@dataclass(frozen=True)
class Phases(Schedule):
    """A sequence of phases.

    Args:
        phases: in order; one of them may take what the others leave of the run.
        interval: whether updates or epochs are counted; of epochs each keeps one value.
        others: phases of other hyperparameters that move along, such as `momentum`.
        whole: the phases must fit into the run; else its end cuts them, as in torch.

    Raises:
        ValueError: a length is not a duration.
    """

    phases: tuple[Item, ...]
    interval: Interval = "step"
    others: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    whole: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, duration in self._named():
            parse(name, duration)
        for item in self.phases:
            lengths = [(item.name, item.scale)] if isinstance(item, Free) else []
            if isinstance(item, Repeat) and item.count is None:
                lengths = [(p.name, p.length or 0) for p in item.phases]  # type: ignore[misc]
            for name, duration in lengths:
                if parse(name, duration)[0] == 0:
                    raise UsageError(f"{name} must be more than 0, got {duration!r}")

    def _named(self) -> list[tuple[str, Duration]]:
        named: list[tuple[str, Duration]] = []
        for item in self.phases:
            if isinstance(item, Free):
                named.append((item.name, item.scale))
            else:
                phases = item.phases if isinstance(item, Repeat) else (item,)
                lengths = [(p.name, p.until if p.length is None else p.length) for p in phases]
                named += [(n, d) for n, d in lengths if d is not None and not isinstance(d, Share)]
        return named

    def durations(self) -> list[Duration]:  # noqa: D102
        epoch: list[Duration] = ["1 epoch"] if self.interval == "epoch" else []
        return [duration for _, duration in self._named()] + epoch

    def curve(self, horizon: Horizon) -> PhasesCurve:
        """This schedule over a run of known length.

        Raises:
            ValueError: the phases are longer than the run, or epochs have no known length.
        """
        every = 1
        if self.interval == "epoch":
            if horizon.steps_per_epoch is None:
                raise UsageError("interval is epoch, but epochs have no known length here")
            every = horizon.steps_per_epoch
            horizon = Horizon(-(-horizon.steps // every), 1)
        curve = PhasesCurve(
            _fit(self.phases, horizon, self.whole), horizon.steps, self.ticks, every
        )
        for name, phases in self.others.items():
            pieces = _fit(phases, horizon, self.whole)
            curve.others[name] = PhasesCurve(pieces, horizon.steps, self.ticks, every)
        return curve


@dataclass(frozen=True)
class Piece:
    """A phase at its place in a run: `length` steps from `begin`."""

    begin: float
    length: float
    item: Item
    #: the lengths of the phases of a round, or the scale of a formula
    parts: tuple[Fraction, ...] = ()

    def at(self, position: float, owner: int, lr: float) -> float:
        """The value at a position in the run, for the update that owns it."""
        offset = position - self.begin
        if isinstance(self.item, Phase):
            # without a length it is one update, at its start; see `ticks: both`
            return self.item.at(offset / self.length if self.length > 0 else 0.0, lr)
        if isinstance(self.item, Free):
            return self.item.formula(offset / float(self.parts[0])) * lr
        return self._repeated(self.item, offset, owner - self.begin, lr)

    def _repeated(self, repeat: Repeat, offset: float, owner: float, lr: float) -> float:
        period, growth = sum(self.parts, Fraction(0)), repeat.growth
        rounds, begin, stretch = 0, Fraction(0), 1
        if growth == 1:
            rounds = int(owner // period)
            begin = rounds * period
        while growth > 1 and owner >= begin + period * stretch:
            begin += period * stretch
            stretch *= growth
            rounds += 1
        for phase, part in zip(repeat.phases, self.parts, strict=True):
            length = part * stretch
            if owner < begin + length:
                floor = value_of(repeat.floor, lr)
                height = phase.at(float((Fraction(offset) - begin) / length), lr) - floor
                return floor + height * float(repeat.decay**rounds * repeat.fade**offset)
            begin += length
        raise AssertionError("rounds leave no gap")


class PhasesCurve(Curve):
    """A pure function of the update; constant time, but for rounds that grow (logarithmic).

    Args:
        pieces: without gaps.
        length: of the run, in what is counted.
        ticks: see the head of this file.
        every: so many updates share a value.
    """

    def __init__(
        self, pieces: tuple[Piece, ...], length: int, ticks: Ticks, every: int = 1
    ) -> None:
        super().__init__(length * every)
        first = pieces[0]
        if ticks == "both" and isinstance(first.item, Phase):
            # the first update is at the start: one interval less
            shorter = Piece(first.begin + 1, first.length - 1, first.item, first.parts)
            pieces = (shorter, *pieces[1:])
        self.pieces = pieces
        self.length = length
        self.lead = 0 if ticks == "start" else 1
        self.every = every

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The value at the update with index t = 0, 1, ...; what follows the end stays there."""
        t //= self.every
        owner = min(t, self.length - 1)
        # boundaries may lie between two updates; on whole steps both comparisons are the same
        owned = (
            (p for p in self.pieces if owner + 1 <= p.begin + p.length)
            if self.lead
            else (p for p in self.pieces if owner < p.begin + p.length)
        )
        piece = next(owned, self.pieces[-1])
        return piece.at(min(t + self.lead, self.length), owner, lr)


def _fit(items: tuple[Item, ...], horizon: Horizon, whole: bool) -> tuple[Piece, ...]:
    """Give every phase its place; the one without a length gets what the others leave."""
    total = horizon.steps
    fixed = [horizon.resolve(i.name, i.length) if isinstance(i, Phase) and i.length is not None
             else 0 for i in items]  # fmt: skip
    pieces: list[Piece] = []
    begin: float = 0
    for index, item in enumerate(items):
        length = _length(item, begin, fixed[index], sum(fixed[index + 1 :]), horizon, whole)
        if length > 0:
            pieces.append(Piece(begin, length, item, _parts(item, length, horizon)))
        begin += length
    return tuple(pieces) or (Piece(0, total, items[-1], _parts(items[-1], total, horizon)),)


def _length(
    item: Item, begin: float, fixed: float, later: float, horizon: Horizon, whole: bool
) -> float:
    left = horizon.steps - begin
    if not isinstance(item, Phase) or (item.length is None and item.until is None):
        return max(0, left - later)
    length = fixed if item.until is None else horizon.resolve(item.name, item.until) - begin
    if length < 0 and item.until is None:
        raise UsageError(f"{item.name} leaves nothing of a run of {horizon.steps} steps")
    if length < 0:
        raise UsageError(f"{item.name} must rise, got {item.until} after {begin:g} steps")
    if whole and length > left:
        given, end = (item.length, length) if item.until is None else (item.until, length + begin)
        taken = f" and {begin:g} of them are taken" if begin and item.until is None else ""
        if isinstance(given, Share):
            given = f"{given.value:g}"
        raise UsageError(
            f"{item.name}={given}: {end:g} steps, but the run has {horizon.steps}{taken}"
        )
    return length


def _parts(item: Item, length: float, horizon: Horizon) -> tuple[Fraction, ...]:
    if isinstance(item, Free):
        return (Fraction(max(1, horizon.resolve(item.name, item.scale))),)
    if isinstance(item, Phase):
        return ()
    if item.count is not None:
        return (Fraction(length) / item.count / len(item.phases),) * len(item.phases)
    parts = [horizon.resolve(phase.name, phase.length or 1) for phase in item.phases]
    return tuple(
        Fraction(max(1, part)) for part in parts
    )  # a share of a short run may round to nothing
