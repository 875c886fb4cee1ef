"""Performance profiles against the rules of AlgoPerf, and against their definition."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from lit_optim.results.data import Profile
from lit_optim.results.figures import HEIGHT, drawing
from lit_optim.results.looks import COLORS, PAGE, PAPER
from lit_optim.results.profile import (
    divide_by_best,
    integrate_profile,
    share_within,
)
from lit_optim.results.profile_figure import draw_profile_figure
from tests.results.algoperf import score_as_algoperf


def a_table(seed: int, submissions: int = 6, workloads: int = 8) -> dict[str, list[float]]:
    """Times over some decades; some never arrive, some are not known, some are the same."""
    chance = random.Random(seed)
    table = {}
    for one in range(submissions):
        times = [10 ** chance.uniform(2, 3) for _ in range(workloads)]
        for task in range(workloads):
            if chance.random() < 0.2:
                times[task] = chance.choice([math.inf, math.nan])
            elif chance.random() < 0.1:
                times[task] = 200.0
        table[f"s{one}"] = times
    table["last"] = [5000.0] * workloads  # so that each workload has one that arrives
    return table


@pytest.mark.parametrize("seed", range(10))
def test_scores_are_those_of_the_rules(seed):
    table = a_table(seed)
    expected = score_as_algoperf(np.array(list(table.values())))
    ratios = divide_by_best(table)
    found = [integrate_profile(own, points=100) for own in ratios.values()]
    assert found == pytest.approx(list(expected), abs=1e-9)
    exact = [integrate_profile(own) for own in ratios.values()]
    assert max(abs(a - b) for a, b in zip(exact, found, strict=True)) <= 0.5 / 99
    fine = [integrate_profile(own, points=2001) for own in ratios.values()]
    assert exact == pytest.approx(fine, abs=0.5 / 2000)


@pytest.mark.parametrize("tau", [2.0, 4.0, 7.5])
def test_the_exact_area_is_that_of_its_steps(tau):
    for seed in range(20):
        for ratios in divide_by_best(a_table(seed)).values():
            jumps = sorted({1.0, tau, *(one for one in ratios if one < tau)})
            area = sum(
                (end - start) * share_within(ratios, start) for start, end in pairwise(jumps)
            )
            assert integrate_profile(ratios, tau) == pytest.approx(area / (tau - 1))


def test_ends_of_the_scale():
    assert integrate_profile([1.0, 1.0]) == integrate_profile([1.0], points=100) == 1
    assert integrate_profile([math.inf, 4.0, 5.0]) == 0
    assert integrate_profile([1.0, math.inf]) == 0.5
    assert integrate_profile([2.5]) == 0.5


def test_a_task_that_nobody_finishes_counts_for_none():
    ratios = divide_by_best({"a": [math.inf, 1.0], "b": [math.nan, 2.0]})
    assert ratios == {"a": [math.inf, 1.0], "b": [math.inf, 2.0]}
    assert integrate_profile(ratios["a"]) == 0.5


def test_scale_does_not_matter():
    table = a_table(3)
    scaled = {name: [7.0 * one for one in own] for name, own in table.items()}
    for name, own in divide_by_best(table).items():
        assert divide_by_best(scaled)[name] == pytest.approx(own)


@pytest.mark.parametrize("look", [PAGE, PAPER])
def test_what_the_figure_shows(look):
    table = {f"s{k}": [1.0 + k, 2.0, math.inf if k > 3 else 3.0 + k] for k in range(11)}
    ratios = divide_by_best(table)
    scores = {name: integrate_profile(own) for name, own in ratios.items()}
    names = sorted(scores, key=lambda name: -scores[name])
    profile = Profile(names, ratios, scores, "step", 4.0)
    with drawing(look):
        figure = draw_profile_figure(profile, look, HEIGHT)
        figure.draw_without_rendering()
    [axes] = figure.axes
    lines = {line.get_gid(): line for line in axes.lines}
    for place, name in enumerate(names):
        line = lines[f"row-{place}"]
        assert line.get_drawstyle() == "steps-post"
        for tau, share in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert share == share_within(ratios[name], tau)
        assert {1.0, 4.0} <= {*line.get_xdata()}
        assert {one for one in ratios[name] if one <= 4} <= {*line.get_xdata()}
    if look is PAPER:
        words = [text.get_text() for text in figure.legends[0].get_texts()]
        assert words == [f"{name} {scores[name]:.2f}" for name in names[: len(COLORS)]] + [
            "3 others"
        ]
