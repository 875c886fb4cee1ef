"""Grids: points evenly in a space, far ones first, so that a part of one is a coarser one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lit_optim.errors import UsageError
from lit_optim.search.data import Choice, Scalar, Space, Span
from lit_optim.search.values import shorten

#: For a span: both ends.
FEWEST_LEVELS = 2


def make_grid(
    space: Space, trials: int, known: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The points of a grid that come after those which are known, as many as are left.

    Args:
        space: what is searched; both ends of a span and all values of a choice are taken.
        trials: how many points are wanted, with those that are known. In several dimensions
            there may be fewer: the largest grid within that number.
        known: points of an earlier, smaller grid; the new ones fill the gaps between them.

    Raises:
        UsageError: a grid of this space needs more trials.
    """
    counts = share_out(space, trials)
    levels = [_levels(one, counts[key]) for key, one in space.items()]
    points = [dict(zip(space, values, strict=True)) for values in itertools.product(*levels)]
    known = [dict(point) for point in known]
    left = {_position(point, space): point for point in points if point not in known}
    gaps = {at: _gap(at, [_position(point, space) for point in known]) for at in left}
    ordered: list[dict[str, Any]] = []
    while left and len(known) + len(ordered) < trials:
        at = max(left, key=gaps.__getitem__)
        is_first = not known and not ordered
        ordered.append(left.pop(at))
        gaps = {
            other: _distance(at, other) if is_first else min(gaps[other], _distance(at, other))
            for other in left
        }
    return ordered


def share_out(space: Space, trials: int) -> dict[str, int]:
    """The levels of each key: a choice has its values, the spans share the rest evenly.

    Raises:
        UsageError: a grid of this space needs more trials.
    """
    most = {key: _count(one, trials) for key, one in space.items()}
    counts = {
        key: most[key] if isinstance(one, Choice) else min(FEWEST_LEVELS, most[key])
        for key, one in space.items()
    }
    if (fewest := math.prod(counts.values())) > trials:
        raise UsageError(
            f"search.sampler=grid: a grid of {', '.join(space)} needs {fewest} trials or more, "
            f"search.trials is {trials}; tpe, qmc and random do with fewer"
        )
    open_keys = [key for key in space if counts[key] < most[key]]
    while open_keys:
        key = min(open_keys, key=counts.__getitem__)
        size = math.prod(counts.values()) // counts[key] * (counts[key] + 1)
        if size > trials:
            open_keys.remove(key)
            continue
        counts[key] += 1
        if counts[key] == most[key]:
            open_keys.remove(key)
    return counts


def _count(one: Span | Choice, trials: int) -> int:
    """The most levels of a key."""
    if isinstance(one, Choice):
        return len(one.values)
    return min(int(one.high - one.low) + 1, trials) if one.is_whole else trials


def _levels(one: Span | Choice, count: int) -> list[Scalar]:
    if isinstance(one, Choice):
        return list(one.values)
    low, high = (math.log(x) if one.is_log else x for x in (one.low, one.high))
    shares = [index / (count - 1) if count > 1 else 0.5 for index in range(count)]
    values = [low + share * (high - low) for share in shares]
    values = [math.exp(value) if one.is_log else value for value in values]
    if one.is_whole:  # small ones of a logarithm round to the same
        values = list(dict.fromkeys(round(value) for value in values))
    return [shorten(value, one) for value in values]


def _position(point: Mapping[str, Any], space: Space) -> tuple[Any, ...]:
    """Where a point is: shares from 0 to 1, and the values of choices."""

    def share(value: Any, one: Span | Choice) -> Any:
        if isinstance(one, Choice):
            return repr(value)
        if one.is_log:
            return math.log(value / one.low) / math.log(one.high / one.low)
        return (value - one.low) / (one.high - one.low)

    return tuple(share(point[key], one) for key, one in space.items())


def _distance(one: tuple[Any, ...], other: tuple[Any, ...]) -> float:
    pairs = zip(one, other, strict=True)
    return sum((float(a != b) if isinstance(a, str) else abs(a - b) for a, b in pairs), 0.0)


def _gap(at: tuple[Any, ...], known: Sequence[tuple[Any, ...]]) -> float:
    """How far the nearest known point is; without one, the middle is best."""
    if known:
        return min(_distance(at, other) for other in known)
    return -sum((abs(x - 0.5) for x in at if not isinstance(x, str)), 0.0)
