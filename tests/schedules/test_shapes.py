"""Every shape equals its closed form, for every step alignment, smooth and in levels."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lit_optim.errors import UsageError
from lit_optim.reports.lr_plan import LrPlan
from lit_optim.reports.lr_plot import draw_in_terminal
from lit_optim.schedules import library
from lit_optim.schedules.combinators import sequential
from lit_optim.schedules.core import STEP_ALIGNMENTS
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.phase_parser import phases

#: how much of the way is made at x
CLOSED = {
    "linear": lambda x: x,
    "cosine": lambda x: 0.5 - 0.5 * math.cos(math.pi * x),
    "mirror_cosine": lambda x: 2 * x - 0.5 + 0.5 * math.cos(math.pi * x),
    "sqrt": lambda x: x**0.5,
    "1-sqrt": lambda x: x**0.5,
    "mirror_sqrt": lambda x: 1 - (1 - x) ** 0.5,
    "square": lambda x: x**2,
    "rex": lambda x: 1 - (1 - x) / (1 - x / 2),
    "power(0.3)": lambda x: x**0.3,
    "power(3)": lambda x: x**3,
    "polynomial(2.5)": lambda x: 1 - (1 - x) ** 2.5,
    "exponential(0.01)": lambda x: (1 - 0.01**x) / 0.99,
    "staircase(3)": lambda x: x,
}
#: the value itself at x, from a to b; in logarithms, which any two numbers have
BY_RATIO = {
    "exponential": lambda x, a, b: math.exp((1 - x) * math.log(a) + x * math.log(b)),
    "inverse_sqrt": lambda x, a, b: math.exp(
        math.log(a) - 0.5 * _log_of_sum(math.log1p(-x) if x < 1 else -math.inf, x, a, b)
    ),
}


def _log_of_sum(of_rest, x, a, b):
    """ln(1 - x + x (a / b)²)."""
    of_x = math.log(x) + 2 * (math.log(a) - math.log(b)) if x else -math.inf
    top = max(of_rest, of_x)
    return top + math.log(math.exp(of_rest - top) + math.exp(of_x - top))


def place(t, total, step_alignment, levels):
    """The position within the phase of the update with this index."""
    if levels:
        is_last = t == total - 1 and step_alignment != "start"
        return 1.0 if is_last and total > 1 else (t * levels // total) / (levels - 1)
    if step_alignment == "both":
        return t / (total - 1) if total > 1 else 0.0
    return t / total if step_alignment == "start" else (t + 1) / total


@given(
    shape=st.sampled_from([*CLOSED, *BY_RATIO]),
    step_alignment=st.sampled_from(STEP_ALIGNMENTS),
    levels=st.none() | st.integers(2, 7),
    total=st.integers(1, 2000),
    start=st.floats(1e-3, 2),
    end=st.floats(1e-3, 2),
    share=st.floats(0, 1),
)
@example("cosine", "both", 4, 100, 1.0, 0.001, 0.0)
@example("staircase(3)", "both", None, 3, 1.0, 0.5, 0.5)
def test_every_update_equals_the_closed_form(
    shape, step_alignment, levels, total, start, end, share
):
    given_phase = {"shape": shape, "from": start, "to": end}
    if shape == "staircase(3)":
        levels = 3
    elif levels is not None:
        given_phase["levels"] = levels
    curve = phases([given_phase], step_alignment=step_alignment).curve(Horizon(total))
    for t in {0, int(share * (total - 1)), total - 1}:
        if total == 1 and levels and step_alignment == "end":
            continue  # its only update is at the end
        x = place(t, total, step_alignment, levels)
        expected = (
            BY_RATIO[shape](x, start, end)
            if shape in BY_RATIO
            else start + (end - start) * CLOSED[shape](x)
        )
        assert curve(t) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    values = [curve(t) for t in range(total)]
    steps = [b - a for a, b in pairwise(values)]
    assert all(step * (end - start) >= 0 for step in steps)  # never back
    assert levels is None or len(set(values)) <= levels
    if step_alignment != "end" and total > 1:
        assert values[0] == start
    if step_alignment != "start" and total > 1:
        assert values[-1] == end
    if levels:  # a jump acts at the same update, however updates are counted
        other = phases([given_phase], step_alignment="end").curve(Horizon(total))
        assert values[:-1] == [other(t) for t in range(total - 1)]
        marks = set(curve.milestones())
        assert all(k + 1 in marks for k in range(total - 2) if steps[k])


@pytest.mark.parametrize("step_alignment", STEP_ALIGNMENTS)
@pytest.mark.parametrize("shape", [*CLOSED, *BY_RATIO])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
def test_milestones_are_within_the_run(shape, step_alignment, total):
    for levels in ({}, {"levels": 4}):
        if shape.startswith("staircase") and levels:
            continue
        first = {"shape": shape, "from": 0.01, "to": 1.0, "for": "50%"} | levels
        schedule = phases([first, {"shape": "linear", "to": 0}], step_alignment=step_alignment)
        curve = schedule.curve(Horizon(total))
        assert draw_in_terminal([LrPlan("it", curve, 0.1, total)], 60)


@pytest.mark.parametrize(
    ("start", "end"),
    [(1e-300, 1e12), (1e12, 1e-300), (1e-300, 1e-299), (1e300, 1e-300), (5e-324, 1.0), (1.0, 1e-9)],
)
@pytest.mark.parametrize("step_alignment", STEP_ALIGNMENTS)
@pytest.mark.parametrize("shape", BY_RATIO)
def test_levels_of_any_magnitude(shape, step_alignment, start, end):
    total = 100
    curve = phases(
        [{"shape": shape, "from": start, "to": end}], step_alignment=step_alignment
    ).curve(Horizon(total))
    values = [curve(t) for t in range(total)]
    for t in range(total):
        expected = BY_RATIO[shape](place(t, total, step_alignment, None), start, end)
        # near the smaller end the rounding of the larger one shows, as in any sum
        assert values[t] == pytest.approx(expected, rel=1e-6, abs=1e-9 * max(start, end))
        assert min(start, end) <= values[t] <= max(start, end)
    assert values == sorted(values, reverse=end < start)


def test_a_shape_that_decays_by_a_factor_needs_levels_above_0():
    for shape in BY_RATIO:
        for start, end in ((0, 1), (1, 0), (-1, 1), (1, -1e-300)):
            with pytest.raises(UsageError, match=r"above 0|must be"):
                phases([{"shape": shape, "from": start, "to": end}])


def test_nested_sequences():
    inner = {
        "name": "sequential",
        "schedules": [{"name": "constant"}, {"name": "linear"}],
        "milestones": ["50%"],
    }
    curve = sequential([inner, {"name": "constant"}], milestones=["50%"]).curve(Horizon(100))
    by_hand = sequential([library.constant(), library.linear()], milestones=["50%"])
    halves = by_hand.curve(Horizon(50))
    assert [curve(t) for t in range(50)] == [halves(t) for t in range(50)]
    assert curve(99) == 1.0
    with pytest.raises(UsageError, match=r"schedules.0.*linaer.*did you mean linear"):
        sequential([inner | {"schedules": [{"name": "linaer"}, {"name": "constant"}]}], [])
