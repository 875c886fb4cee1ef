"""Segments placed in a run, which together are a pure function of the update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from lit_optim.errors import UsageError
from lit_optim.schedules.core import StepAlignment
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import Duration, Horizon, RunFraction, parse_duration
from lit_optim.schedules.phase_spec import (
    AbsoluteLevel,
    FormulaSegment,
    Level,
    Phase,
    Repeat,
    Segment,
    inner_phases,
    level_value,
)

#: Rounds or levels beyond this number are not listed as milestones.
MAX_LISTED = 100


@dataclass(frozen=True)
class PlacedSegment:
    """A segment that takes `length` steps of a run from `begin`."""

    begin: float
    length: float
    segment: Segment
    #: lengths of the phases of the first round, or the scale of a formula, in steps
    parts: tuple[Fraction, ...] = ()
    #: whether it also has the update before `begin`, at its start; see `step_alignment: both`
    is_early: bool = False

    @property
    def end(self) -> float:
        """Where the next segment begins."""
        return self.begin + self.length

    def value_at(self, position: float, owner: int, lr: float) -> float:
        """The value at a position in the run, for the update `owner` of this segment."""
        offset, owned = position - self.begin, owner - self.begin + self.is_early
        if isinstance(self.segment, Phase):
            updates = self.length + self.is_early
            return self.segment.value_at(offset, owned, self.length, updates, lr)
        if isinstance(self.segment, FormulaSegment):
            return self.segment.formula(offset / float(self.parts[0])) * lr
        return self._repeat_value(self.segment, offset, owned, lr)

    def _repeat_value(self, repeat: Repeat, offset: float, owned: float, lr: float) -> float:
        rounds = self._round_at(repeat, owned)
        begin, last = self._round_begin(repeat, rounds), len(self.parts) - 1
        for index, (phase, part) in enumerate(zip(repeat.phases, self.parts, strict=True)):
            length = part * _exact_if_whole(float(repeat.growth)) ** rounds
            if owned < begin + length or index == last:
                floor = level_value(repeat.floor, lr)
                place = Fraction(offset) - begin
                value = phase.value_at(place, owned - begin, length, length, lr)  # type: ignore[arg-type]
                return floor + (value - floor) * float(repeat.decay**rounds * repeat.fade**offset)
            begin += length
        raise AssertionError("a round has phases")

    def _round_begin(self, repeat: Repeat, rounds: int) -> Fraction | float:
        """Where a round begins; exact if `growth` is a whole number."""
        period, growth = sum(self.parts, Fraction(0)), _exact_if_whole(float(repeat.growth))
        return period * (rounds if growth == 1 else (growth**rounds - 1) / (growth - 1))

    def _round_at(self, repeat: Repeat, owned: float) -> int:
        """The index of the round that an update is in."""
        period, growth = float(sum(self.parts)), repeat.growth
        if growth == 1:
            rounds = int(owned // sum(self.parts))
        else:
            rounds = int(math.log(1 + owned * (growth - 1) / period, growth))
            while self._round_begin(repeat, rounds + 1) <= owned:  # a logarithm may be one off
                rounds += 1
            while self._round_begin(repeat, rounds) > owned:
                rounds -= 1
        return rounds if repeat.count is None else min(rounds, repeat.count - 1)

    def milestones(self) -> Iterator[float]:
        """Where the segment begins, and each of its levels, rounds, and phases of a round."""
        first, updates = self.begin - self.is_early, self.length + self.is_early
        yield first
        if isinstance(self.segment, Phase) and self.segment.levels <= MAX_LISTED:
            for level in range(1, self.segment.levels):
                yield first + updates * level / self.segment.levels
        if isinstance(self.segment, Repeat):
            count = 1 + self._round_at(self.segment, math.ceil(self.length) - 1)
            for rounds in range(count if count <= MAX_LISTED else 0):
                begin = self._round_begin(self.segment, rounds)
                for part in self.parts:
                    yield self.begin + float(begin)
                    begin += part * _exact_if_whole(float(self.segment.growth)) ** rounds


class PhasesCurve(Curve):
    """The curve of a list of phases: a pure function of the update, in constant time.

    Args:
        segments: without gaps.
        length: the length of the run, in the unit that `step_alignment` counts.
        step_alignment: see `phases`.
        every: the number of updates that share a value.
    """

    def __init__(
        self,
        segments: tuple[PlacedSegment, ...],
        length: int,
        step_alignment: StepAlignment,
        every: int = 1,
    ) -> None:
        super().__init__(length * every)
        first = segments[0]
        if step_alignment == "both" and isinstance(first.segment, Phase):
            # the first update is at the start, so the phase has one interval less
            begin, length_left = first.begin + 1, first.length - 1
            shorter = PlacedSegment(begin, length_left, first.segment, first.parts, is_early=True)
            segments = (shorter, *segments[1:])
        self.segments = segments
        self.length = length
        self.lead = 0 if step_alignment == "start" else 1
        self.every = every

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The value at update t = 0, 1, ...; after the end it stays constant."""
        t //= self.every
        owner = min(t, self.length - 1)
        for segment in self.segments:
            end = segment.begin + segment.length
            # a boundary may lie between two updates; at whole steps both comparisons agree
            if owner + 1 <= end if self.lead else owner < end:
                break
        return segment.value_at(min(t + self.lead, self.length), owner, lr)

    def milestones(self) -> list[int]:
        """The first update of each phase, round and level, and the update before it."""
        begins = {math.ceil(begin) for segment in self.segments for begin in segment.milestones()}
        marks = {0, self.length - 1} | begins | {begin - 1 for begin in begins}
        return sorted(mark * self.every for mark in marks if 0 <= mark < self.length)


def place_segments(
    segments: tuple[Segment, ...], horizon: Horizon, must_fit: bool
) -> tuple[PlacedSegment, ...]:
    """Place every segment in the run; the one without a length takes what the others leave.

    Raises:
        ValueError: they are longer than the run and `must_fit` is set.
    """
    fits = sum(_exact_length(segment, horizon) for segment in segments) <= horizon.steps
    placed: list[PlacedSegment] = []
    begin: float = 0
    level: Level = 1.0
    ends = _fixed_ends(segments, horizon)
    for index, segment in enumerate(segments):
        fixed = ends[index] - (ends[index - 1] if index else 0)
        length = _length(segment, begin, fixed, ends[-1] - ends[index], horizon, must_fit)
        if fits and begin + length > horizon.steps:  # only rounding made them too long
            length = horizon.steps - begin
        if isinstance(segment, Phase) and segment.start is None:
            segment = replace(segment, start=level)
        one = PlacedSegment(begin, length, segment, _parts(segment, length, horizon))
        if length > 0:
            placed.append(one)
            level = _end_level(one)
        elif isinstance(segment, Phase):
            level = segment.end
        begin += length
    everything = PlacedSegment(0, horizon.steps, segment, _parts(segment, horizon.steps, horizon))
    return tuple(placed) or (everything,)


def _end_level(placed: PlacedSegment) -> Level:
    if isinstance(placed.segment, Phase):
        return placed.segment.end
    value = placed.value_at(placed.end, math.ceil(placed.end) - 1, 1.0)
    is_absolute = any(
        isinstance(phase.end, AbsoluteLevel) for phase in inner_phases(placed.segment)
    )
    return AbsoluteLevel(value) if is_absolute else value


def _is_percentage(segment: Segment) -> bool:
    name, length, _ = _given_length(segment)
    return isinstance(length, str) and parse_duration(name, length)[1] == "%"


def _exact_length(segment: Segment, horizon: Horizon) -> float:
    """Its length before it is rounded to whole steps; 0 if it has none of its own."""
    name, length, _ = _given_length(segment)
    if length is None or isinstance(length, RunFraction):
        return 0
    return horizon.exact(name, length)


def _given_length(segment: Segment) -> tuple[str, Duration | RunFraction | None, Duration | None]:
    """The name of its length, the length, and the position where it ends."""
    if isinstance(segment, Phase):
        return segment.name, segment.length, segment.until
    name = segment.length_name if isinstance(segment, FormulaSegment) else segment.name
    return name, segment.length, None


def _fixed_ends(segments: tuple[Segment, ...], horizon: Horizon) -> list[float]:
    """Where each would end if those without a length had length 0.

    Consecutive percentages are rounded together, so that their sum is right.
    """
    ends: list[float] = []
    end: float = 0
    exact: float = 0
    for segment in segments:
        name, length, _ = _given_length(segment)
        if _is_percentage(segment):
            exact += _exact_length(segment, horizon)
            end = math.floor(exact + 0.5)
        else:
            end += 0 if length is None else horizon.resolve(name, length)
            exact = end
        ends.append(end)
    return ends


def _length(
    segment: Segment, begin: float, fixed: float, later: float, horizon: Horizon, must_fit: bool
) -> float:
    left = horizon.steps - begin
    name, given, until = _given_length(segment)
    if given is None and until is None:
        return max(0, left - later)
    length = fixed if until is None else horizon.resolve(name, until) - begin
    if length < 0 and until is None:
        if isinstance(given, RunFraction) and given.steps_less and later >= 0:
            return length  # as in torch: it ends before it begins, and the next begins earlier
        raise UsageError(f"{name} leaves no steps in a run of {horizon.steps}")
    if length < 0:
        raise UsageError(f"{name} must increase, got {until} after {begin:g} steps")
    if not must_fit or length <= left:
        return length
    value, end = (given, length) if until is None else (until, length + begin)
    taken = f" and {begin:g} of them are taken" if begin and until is None else ""
    if isinstance(value, RunFraction):
        value = f"{value.value:g}"
    raise UsageError(f"{name}={value}: {end:g} steps, but the run has {horizon.steps}{taken}")


def _parts(segment: Segment, length: float, horizon: Horizon) -> tuple[Fraction, ...]:
    if isinstance(segment, FormulaSegment):
        return (Fraction(max(1, horizon.resolve(segment.name, segment.scale))),)
    if isinstance(segment, Phase):
        return ()
    if segment.count is not None:
        return _round_parts(segment, _first_round(segment.growth, segment.count, length))
    parts = [horizon.resolve(phase.name, phase.length or 1) for phase in segment.phases]
    # a percentage of a short run may round to 0
    return tuple(Fraction(max(1, part)) for part in parts)


def _first_round(growth: float, count: int, length: float) -> Fraction:
    """The length of the first of `count` rounds that fill `length`."""
    if growth == 1:
        return Fraction(length) / count
    return Fraction(length) * Fraction(growth - 1) / Fraction(growth**count - 1)


def _exact_if_whole(growth: float) -> float:
    """2 for 2.0: powers of an integer are exact."""
    return int(growth) if growth.is_integer() else growth


def _round_parts(repeat: Repeat, period: Fraction) -> tuple[Fraction, ...]:
    """The lengths of the phases of a round of this length."""
    given = [
        None
        if phase.length is None
        else Fraction(parse_duration(phase.name, phase.length)[0]) / 100  # type: ignore[arg-type]
        for phase in repeat.phases
    ]
    left = Fraction(1) - sum((part for part in given if part is not None), Fraction(0))
    each = left / max(1, given.count(None))
    return tuple(period * (each if part is None else part) for part in given)
