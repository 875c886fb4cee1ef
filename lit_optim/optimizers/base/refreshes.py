"""When the factors of matrices are decomposed: in turns, so that all steps take about as long."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace
from typing import NamedTuple


class Refresh(NamedTuple):
    """What is done once in a number of updates.

    Args:
        cost: of doing it, in any unit.
        period: in updates.
    """

    cost: float
    period: int


def take_turns(refreshes: Sequence[Refresh]) -> list[int]:
    """Give each refresh a turn: the update of its period that has the least work so far.

    The most costly ones come first, and of equal ones the first. Nothing else counts, so that a
    resumed run has the same turns, and so has each process of a sharded one.

    Returns:
        of each: 0, 1, ..., period - 1.
    """
    turns = [0] * len(refreshes)
    loads: dict[int, list[tuple[float, int]]] = {}
    for i in sorted(range(len(refreshes)), key=lambda i: -refreshes[i].cost):
        cost, period = refreshes[i]
        if period not in loads:
            loads[period] = [(0.0, turn) for turn in range(min(period, len(refreshes)))]
        load, turns[i] = loads[period][0]
        heapreplace(loads[period], (load + cost, turns[i]))
    return turns
