"""Phases fitted to a run: each has its place, and the whole is a pure function of the update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from lit_optim.errors import UsageError
from lit_optim.schedules.core import Curve, Ticks
from lit_optim.schedules.durations import Duration, Horizon, Share, parse
from lit_optim.schedules.phase_spec import (
    Absolute,
    Free,
    Item,
    Level,
    Phase,
    Repeat,
    phases_of,
    value_of,
)

#: More rounds or levels than these are no milestones.
MANY = 100


@dataclass(frozen=True)
class Piece:
    """A phase at its place in a run: `length` steps from `begin`."""

    begin: float
    length: float
    item: Item
    #: the lengths of the phases of the first round, or the scale of a formula
    parts: tuple[Fraction, ...] = ()
    #: whether the update before `begin` is its own too, and at its start; see `ticks: both`
    early: bool = False

    @property
    def end(self) -> float:
        """Where the next one begins."""
        return self.begin + self.length

    def at(self, position: float, owner: int, lr: float) -> float:
        """The value at a position in the run, for the update that owns it."""
        offset, owned = position - self.begin, owner - self.begin + self.early
        if isinstance(self.item, Phase):
            return self.item.at(offset, owned, self.length, self.length + self.early, lr)
        if isinstance(self.item, Free):
            return self.item.formula(offset / float(self.parts[0])) * lr
        return self._repeated(self.item, offset, owned, lr)

    def _repeated(self, repeat: Repeat, offset: float, owned: float, lr: float) -> float:
        rounds = self._round(repeat, owned)
        begin, last = self._begin(repeat, rounds), len(self.parts) - 1
        for index, (phase, part) in enumerate(zip(repeat.phases, self.parts, strict=True)):
            length = part * _whole(float(repeat.growth)) ** rounds
            if owned < begin + length or index == last:
                floor = value_of(repeat.floor, lr)
                place = Fraction(offset) - begin
                value = phase.at(place, owned - begin, length, length, lr)  # type: ignore[arg-type]
                return floor + (value - floor) * float(repeat.decay**rounds * repeat.fade**offset)
            begin += length
        raise AssertionError("a round has phases")

    def _begin(self, repeat: Repeat, rounds: int) -> Fraction | float:
        """Where a round begins; exact where `growth` is whole."""
        period, growth = sum(self.parts, Fraction(0)), _whole(float(repeat.growth))
        return period * (rounds if growth == 1 else (growth**rounds - 1) / (growth - 1))

    def _round(self, repeat: Repeat, owned: float) -> int:
        """The number of the round that has begun last: 0, 1, ..."""
        period, growth = float(sum(self.parts)), repeat.growth
        if growth == 1:
            rounds = int(owned // sum(self.parts))
        else:
            rounds = int(math.log(1 + owned * (growth - 1) / period, growth))
            while self._begin(repeat, rounds + 1) <= owned:  # a logarithm may be one off
                rounds += 1
            while self._begin(repeat, rounds) > owned:
                rounds -= 1
        return rounds if repeat.count is None else min(rounds, repeat.count - 1)

    def milestones(self) -> Iterator[float]:
        """Where it begins, and each of its levels, or rounds and their phases."""
        first, updates = self.begin - self.early, self.length + self.early
        yield first
        if isinstance(self.item, Phase) and self.item.levels <= MANY:
            for level in range(1, self.item.levels):
                yield first + updates * level / self.item.levels
        if isinstance(self.item, Repeat):
            count = 1 + self._round(self.item, math.ceil(self.length) - 1)
            for rounds in range(count if count <= MANY else 0):
                begin = self._begin(self.item, rounds)
                for part in self.parts:
                    yield self.begin + float(begin)
                    begin += part * _whole(float(self.item.growth)) ** rounds


class PhasesCurve(Curve):
    """A pure function of the update, in constant time.

    Args:
        pieces: without gaps.
        length: of the run, in what is counted.
        ticks: see the head of `phases`.
        every: so many updates share a value.
    """

    def __init__(
        self, pieces: tuple[Piece, ...], length: int, ticks: Ticks, every: int = 1
    ) -> None:
        super().__init__(length * every)
        first = pieces[0]
        if ticks == "both" and isinstance(first.item, Phase):
            # the first update is at the start: one interval less
            shorter = Piece(first.begin + 1, first.length - 1, first.item, first.parts, True)
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
            (p for p in self.pieces if owner + 1 <= p.end)
            if self.lead
            else (p for p in self.pieces if owner < p.end)
        )
        piece = next(owned, self.pieces[-1])
        return piece.at(min(t + self.lead, self.length), owner, lr)

    def milestones(self) -> list[int]:
        """The first update of each phase, round and level, and the one before it."""
        begins = {math.ceil(begin) for piece in self.pieces for begin in piece.milestones()}
        marks = {0, self.length - 1} | begins | {begin - 1 for begin in begins}
        return sorted(mark * self.every for mark in marks if 0 <= mark < self.length)


def fit(items: tuple[Item, ...], horizon: Horizon, whole: bool) -> tuple[Piece, ...]:
    """Give every phase its place; the one without a length gets what the others leave.

    Raises:
        ValueError: they are longer than the run, which `whole` forbids.
    """
    fits = sum(_exact(item, horizon) for item in items) <= horizon.steps
    pieces: list[Piece] = []
    begin: float = 0
    level: Level = 1.0
    ends = _ends(items, horizon)
    for index, item in enumerate(items):
        fixed = ends[index] - (ends[index - 1] if index else 0)
        length = _length(item, begin, fixed, ends[-1] - ends[index], horizon, whole)
        if fits and begin + length > horizon.steps:  # rounding alone has made them too long
            length = horizon.steps - begin
        if isinstance(item, Phase) and item.start is None:
            item = replace(item, start=level)
        piece = Piece(begin, length, item, _parts(item, length, horizon))
        if length > 0:
            pieces.append(piece)
            level = _last(piece)
        elif isinstance(item, Phase):
            level = item.end
        begin += length
    rest = Piece(0, horizon.steps, item, _parts(item, horizon.steps, horizon))
    return tuple(pieces) or (rest,)


def _last(piece: Piece) -> Level:
    """The level at the end of a piece."""
    if isinstance(piece.item, Phase):
        return piece.item.end
    value = piece.at(piece.end, math.ceil(piece.end) - 1, 1.0)
    absolute = any(isinstance(phase.end, Absolute) for phase in phases_of(piece.item))
    return Absolute(value) if absolute else value


def _is_share(item: Item) -> bool:
    name, length, _ = _asked(item)
    return isinstance(length, str) and parse(name, length)[1] == "%"


def _exact(item: Item, horizon: Horizon) -> float:
    """Its length before it is rounded to whole steps; 0 where it has none of its own."""
    name, length, _ = _asked(item)
    if length is None or isinstance(length, Share):
        return 0
    return horizon.exact(name, length)


def _asked(item: Item) -> tuple[str, Duration | Share | None, Duration | None]:
    """What its length is called, the length, and until when."""
    if isinstance(item, Phase):
        return item.name, item.length, item.until
    return item.length_name if isinstance(item, Free) else item.name, item.length, None


def _ends(items: tuple[Item, ...], horizon: Horizon) -> list[float]:
    """Where each would end if those without a length had none; shares in a row round together."""
    ends: list[float] = []
    end: float = 0
    exact: float = 0
    for item in items:
        name, length, _ = _asked(item)
        if _is_share(item):
            exact += _exact(item, horizon)
            end = math.floor(exact + 0.5)
        else:
            end += 0 if length is None else horizon.resolve(name, length)
            exact = end
        ends.append(end)
    return ends


def _length(
    item: Item, begin: float, fixed: float, later: float, horizon: Horizon, whole: bool
) -> float:
    left = horizon.steps - begin
    name, given, until = _asked(item)
    if given is None and until is None:
        return max(0, left - later)
    length = fixed if until is None else horizon.resolve(name, until) - begin
    if length < 0 and until is None:
        if isinstance(given, Share) and given.less and later >= 0:
            return length  # as in torch: over before it begins, and the next one begins earlier
        raise UsageError(f"{name} leaves nothing of a run of {horizon.steps} steps")
    if length < 0:
        raise UsageError(f"{name} must rise, got {until} after {begin:g} steps")
    if not whole or length <= left:
        return length
    asked, end = (given, length) if until is None else (until, length + begin)
    taken = f" and {begin:g} of them are taken" if begin and until is None else ""
    if isinstance(asked, Share):
        asked = f"{asked.value:g}"
    raise UsageError(f"{name}={asked}: {end:g} steps, but the run has {horizon.steps}{taken}")


def _parts(item: Item, length: float, horizon: Horizon) -> tuple[Fraction, ...]:
    if isinstance(item, Free):
        return (Fraction(max(1, horizon.resolve(item.name, item.scale))),)
    if isinstance(item, Phase):
        return ()
    if item.count is not None:
        return _shares(item, _first_round(item.growth, item.count, length))
    parts = [horizon.resolve(phase.name, phase.length or 1) for phase in item.phases]
    return tuple(
        Fraction(max(1, part)) for part in parts
    )  # a share of a short run may round to nothing


def _first_round(growth: float, count: int, length: float) -> Fraction:
    """The length of the first of so many rounds that fill a length."""
    if growth == 1:
        return Fraction(length) / count
    return Fraction(length) * Fraction(growth - 1) / Fraction(growth**count - 1)


def _whole(growth: float) -> float:
    """2 for 2.0: powers of a whole number are exact."""
    return int(growth) if growth.is_integer() else growth


def _shares(repeat: Repeat, period: Fraction) -> tuple[Fraction, ...]:
    given = [
        None if phase.length is None else Fraction(parse(phase.name, phase.length)[0]) / 100  # type: ignore[arg-type]
        for phase in repeat.phases
    ]
    left = Fraction(1) - sum((share for share in given if share is not None), Fraction(0))
    each = left / max(1, given.count(None))
    return tuple(period * (each if share is None else share) for share in given)
