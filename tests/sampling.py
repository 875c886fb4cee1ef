"""Which of many cases are tried by default; `-m slow` tries the others.

`@pytest.mark.sampled(count)` is for a test as a whole, `sample` for the values of one parameter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest


def sample(cases: Iterable[Any], count: int, seed: int = 0) -> list[Any]:
    """All cases as parameters of a test; those that are not among `count` drawn ones are slow.

    Args:
        cases: values of one parameter, or tuples of the values of several.
        count: how many are drawn.
        seed: of the draw.
    """
    cases = list(cases)
    drawn = _draw(count, len(cases), seed)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if k in drawn else pytest.mark.slow,
        )
        for k, case in enumerate(cases)
    ]


def sample_marked(items: Iterable[pytest.Item]) -> None:
    """Mark the cases of tests as slow that `@pytest.mark.sampled(count)` does not draw.

    It draws from those that are not slow anyway.
    """
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for same in cases.values():
        [count] = same[0].get_closest_marker("sampled").args  # type: ignore[union-attr]
        drawn = _draw(count, len(same))
        for k, item in enumerate(same):
            if k not in drawn:
                item.add_marker("slow")


def _draw(count: int, among: int, seed: int = 0) -> set[int]:
    return {*Random(seed).sample(range(among), min(count, among))}
