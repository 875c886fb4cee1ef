"""Intervals, differences and ranks, against scipy and by their definition."""

from __future__ import annotations

import math
import random
import warnings
from statistics import median as exact_median

import pytest
from scipy import stats

from lit_optim.results.statistics import differ, interval, median, rank


def samples(seed, groups, least=2, most=8):
    chance = random.Random(seed)
    found = []
    for _ in range(groups):
        mean, scale = chance.choice([0, 0.5, 2]), chance.choice([0.1, 0.5, 1])
        found.append([chance.gauss(mean, scale) for _ in range(chance.randint(least, most))])
    return found


@pytest.mark.parametrize("seed", range(30))
def test_an_interval_is_that_of_student(seed):
    [values] = samples(seed, 1, least=3)
    found = interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.count == len(values)


@pytest.mark.parametrize("power", [-1000, -200, 0, 200, 1020])
def test_intervals_scale_with_their_values(power):
    values = [0.5, 0.75, 0.625]
    plain, scaled = interval(values), interval([math.ldexp(value, power) for value in values])
    assert scaled.mean == math.ldexp(plain.mean, power)
    assert scaled.half == math.ldexp(plain.half, power)
    assert interval([1.7e308, -1.7e308, 0.0]).half == math.inf


def test_intervals_without_an_error_or_a_mean():
    assert interval([3.0]).mean == 3.0
    assert math.isnan(interval([3.0]).half)
    assert (interval([3.0, 4.0]).mean, interval([3.0, 4.0]).count) == (3.5, 2)
    assert math.isnan(interval([3.0, 4.0]).half)  # 13 standard errors would say nothing
    assert interval([3.0, 3.0, 3.0]).half == 0
    for values in ([], [1.0, math.nan], [1.0, math.inf]):
        found = interval(values)
        assert math.isnan(found.mean)
        assert math.isnan(found.half)
        assert found.count == len(values)


def test_pairs_differ_as_in_scipy_whichever_bound_decides():
    told = {True: 0, False: 0}
    close = 0
    for seed in range(40):
        every = samples(seed, [2, 5][seed % 2])
        p = stats.tukey_hsd(*every, equal_var=False).pvalue
        for i, a in enumerate(every):
            for j, b in enumerate(every[:i]):
                found = differ(a, b, len(every))
                assert found == (p[i, j] < 0.05), (seed, i, j, p[i, j])
                assert found == differ(b, a, len(every))
                told[found] += 1
                alone = stats.ttest_ind(a, b, equal_var=False).pvalue
                bound = alone * len(every) * (len(every) - 1) / 2
                close += alone < 0.05 <= bound
    assert min(*told.values(), close) > 10  # each of the three ways was taken


def test_what_scipy_leaves_open():
    assert not differ([1.0], [2.0, 2.1], 2)  # one run
    assert not differ([1.0, 1.0], [1.0, 1.0], 2)
    assert differ([1.0, 1.0], [2.0, 2.0], 2)  # no seed changes it
    assert not differ([1.0, math.nan], [2.0, 2.1], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = stats.tukey_hsd([1.0, 1.0, 1.0], [2.0, 2.1, 2.2], equal_var=False).pvalue[0, 1]
    assert differ([1.0, 1.0, 1.0], [2.0, 2.1, 2.2], 2) == (p < 0.05)


def test_a_rank_is_shared_by_what_its_best_cannot_be_told_from():
    tight = [[at + 0.001 * k for k in range(3)] for at in (0.0, 1.0, 2.0)]
    assert rank(tight) == [1, 2, 3]
    noisy = [[0.0, 0.1, 0.2], [0.05, 0.15, 0.25], [5.0, 5.1, 5.2], [4.0, 5.5, 7.0]]
    assert rank(noisy) == [1, 1, 3, 3]
    assert rank([[1.0], [2.0], [3.0]]) == [1, 1, 1]  # nothing can be told of one run each
    assert rank([]) == []


@pytest.mark.parametrize("seed", range(10))
def test_ranks_follow_the_order_and_say_what_they_mean(seed):
    every = sorted(samples(seed, 6, least=3), key=lambda values: sum(values) / len(values))
    ranks = rank(every)
    assert ranks == sorted(ranks)
    p = stats.tukey_hsd(*every, equal_var=False).pvalue
    for place, own in enumerate(ranks):
        best = own - 1
        assert best == place or p[best, place] >= 0.05
        if own > 1 and best == place:
            above = ranks[place - 1] - 1
            assert p[above, place] < 0.05


def test_runs_that_never_arrive_take_part_in_a_median():
    assert median([1.0, math.inf, 3.0]) == 3.0
    assert median([1.0, math.inf]) == math.inf
    assert median([math.inf, 1.0, math.inf]) == math.inf
    assert math.isnan(median([]))
    assert median([4.0, 1.0, 3.0, 2.0]) == exact_median([1, 2, 3, 4])
