"""The numbers that figures show, against enumeration, interpolation by hand and known limits."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_optim.results.data import History, Run
from lit_optim.results.series import (
    HUGE,
    MOST_POINTS,
    average_curves,
    choose_span,
    choose_window,
    expect_best,
    read_curve,
    thin,
)
from lit_optim.runs.status import Status

FINITE = st.floats(-1e6, 1e6)


@given(st.lists(FINITE, min_size=1, max_size=9), st.sampled_from(["min", "max"]))
def test_best_of_k_is_the_mean_over_all_subsets(values, mode):
    best = min if mode == "min" else max
    by_hand = [fmean(map(best, combinations(values, k))) for k in range(1, len(values) + 1)]
    assert expect_best(values, mode) == pytest.approx(by_hand, rel=1e-9, abs=1e-6)


def test_best_of_many_trials_has_its_closed_form():
    n = 1000  # of 1, 2, ..., n the least of k is (n + 1) / (k + 1) on average
    found = expect_best(range(1, n + 1), "min", most=n)
    assert found == pytest.approx([(n + 1) / (k + 1) for k in range(1, n + 1)])


def run_of(steps, values, status=Status.COMPLETED, metric="val/loss") -> Run:
    return Run(Path("x"), status, history=History(step=steps, metrics={metric: values}))


def test_curves_of_other_steps_meet_between_them():
    curve = average_curves([run_of([0, 10, 20], [4, 2, 0]), run_of([5, 15], [1, 3])], "val/loss")
    assert curve.steps.tolist() == [5, 10, 15]
    assert curve.mean.tolist() == [(3 + 1) / 2, (2 + 2) / 2, (1 + 3) / 2]
    assert curve.low.tolist() == [1, 2, 1]
    assert curve.high.tolist() == [3, 2, 3]
    assert curve.runs == 2


def test_mean_is_over_completed_runs_where_there_are_any():
    whole, half = run_of([1, 2, 3], [3, 2, 1]), run_of([1, 2], [9, 9], Status.RUNNING)
    assert average_curves([whole, half], "val/loss").mean.tolist() == [3, 2, 1]
    assert average_curves([half, half], "val/loss").mean.tolist() == [9, 9]
    assert average_curves([run_of([1], [3])], "val/loss") is None
    assert average_curves([run_of([1, 2], [3, 2])], "val/acc") is None
    assert average_curves([run_of([1, 2], [3, 2]), run_of([5, 6], [3, 2])], "val/loss") is None


def test_a_curve_leaves_out_what_is_not_finite_or_goes_back():
    run = run_of([1, 2, 3, 2, 5, 6], [5.0, math.nan, math.inf, 4.0, 3.0])
    steps, values = read_curve(run, "val/loss")
    assert (steps.tolist(), values.tolist()) == ([1, 2, 5], [5, 4, 3])


@given(st.integers(1, 1000))
def test_thinned_points_have_both_ends(count):
    kept = thin(np.arange(float(count)))
    assert len(kept) == min(count, MOST_POINTS)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert np.all(np.diff(kept) > 0)


@given(st.lists(st.floats(allow_nan=True), max_size=20), st.sampled_from(["min", "max"]))
def test_window_is_finite_and_holds_the_better_half(values, mode):
    finite = [v for v in values if math.isfinite(v) and abs(v) < HUGE]
    window = choose_window(finite, mode)
    assert math.isfinite(window.low)
    assert math.isfinite(window.high)
    assert window.low < window.high
    ordered = sorted(finite, reverse=mode == "max")
    assert all(window.holds(value) for value in ordered[: (len(ordered) + 1) // 2])


def test_window_leaves_out_what_is_far_off():
    losses = [0.30, 0.31, 0.33, 0.35, 0.40, 900.0]
    window = choose_window(losses, "min")
    assert window.holds(0.40)
    assert 0.40 < window.hold(900.0) < window.high < 1
    near = choose_window([0.30, 0.31, 0.33, 0.35, 0.40, 0.60], "min")  # would be cut off narrowly
    assert near.hold(0.60) == 0.60
    mirrored = choose_window([-loss for loss in losses], "max")
    assert (mirrored.low, mirrored.high) == pytest.approx((-window.high, -window.low))
    assert choose_window([1e-6, 1e-3, 1.0], "min").is_log
    assert not choose_window([0.5, 1.0], "min").is_log


@pytest.mark.parametrize(
    ("values", "span"),
    [
        ([0.01, 0.03, 1e20, 0.1], (0.01, 0.1)),
        ([1e-20, 0.01, 0.03, 1e20, 1e19], (0.01, 0.03)),
        ([1e-5, 1e-4, 1.0, 10.0], (1e-5, 10.0)),  # of optimizers such as Lion and Prodigy
        ([0.1], (0.1, 0.1)),
        ([0.1, 1e20], (0.1, 0.1)),
    ],
)
def test_a_span_leaves_out_what_is_far_off(values, span):
    assert choose_span(values) == span
