"""Which of many cases are tried by default; `-m slow` tries the others."""

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
    drawn = {*Random(seed).sample(range(len(cases)), min(count, len(cases)))}
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if k in drawn else pytest.mark.slow,
        )
        for k, case in enumerate(cases)
    ]


def sample_marked(items: Iterable[pytest.Item]) -> None:
    """Mark the cases of tests as slow that `@pytest.mark.sampled(count)` does not draw."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for same in cases.values():
        [count] = same[0].get_closest_marker("sampled").args  # type: ignore[union-attr]
        drawn = {*Random(0).sample(range(len(same)), min(count, len(same)))}
        for k, item in enumerate(same):
            if k not in drawn:
                item.add_marker("slow")
