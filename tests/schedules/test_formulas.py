"""Formulas: their syntax, invalid formulas, and functions by name."""

from __future__ import annotations

import math
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lit_optim.compat.torch_schedules import LambdaLR
from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.formula import Formula
from lit_optim.schedules.formula_schedules import FormulaSchedule, lambda_, multiplicative

HORIZON = Horizon(100, steps_per_epoch=10)


def values(schedule, count=100):
    curve = schedule.curve(HORIZON)
    return [curve(t) for t in range(count)]


def test_names_and_step_alignment():
    assert values(lambda_("progress"))[::99] == [0.01, 1.0]
    assert values(lambda_("progress", step_alignment="start"))[::99] == [0.0, 0.99]
    assert values(lambda_("step / total"))[50] == 0.5
    assert values(lambda_("0.5 ** epoch"))[:30:10] == [1, 0.5, 0.25]
    assert values(lambda_("exp(-e) + cos(pi / 2)"))[3] == pytest.approx(math.exp(-math.e))
    assert values(lambda_("1 if step < 5 else max(0.1, 1 - progress)"))[99] == 0.1
    assert values(lambda_("1 - progress"), 120)[99:] == [0.0] * 21


def test_epochs_are_required_only_by_formulas_that_use_them():
    assert "epoch" in lambda_("0.5 ** epoch").units
    assert "epoch" not in lambda_("lambda epoch: 0.5 ** epoch").units
    assert "epoch" in LambdaLR("lambda epoch: 0.5 ** epoch", interval="epoch").units
    by_epoch = values(LambdaLR("lambda epoch: 0.5 ** epoch", interval="epoch"))
    assert by_epoch[:30:5] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_product_does_not_depend_on_the_order_of_calls():
    straight = values(multiplicative("1 - 1 / (step + 2)"))
    curve = multiplicative("1 - 1 / (step + 2)").curve(HORIZON)
    assert [curve(t) for t in (70, 3, 99, 0)] == [straight[t] for t in (70, 3, 99, 0)]
    resumed = multiplicative("1 - 1 / (step + 2)").curve(HORIZON)
    resumed.load_state_dict(curve.state_dict())
    assert resumed(50) == straight[50]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "step.__class__",
        "(lambda: 1)()",
        "[step for step in (1, 2)]",
        "'a' * 9",
        "open('x')",
        "step; step",
        "step = 1",
        "",
        "1 +",
        "unknown",
        "sqrt",
        "step(1)",
        "lambda a, b: a",
        "{}",
        "f'{step}'",
        "True.__class__",
        "(step := 5)",
        "1j",
    ],
)
def test_code_is_an_error_in_one_line(text):
    with pytest.raises(UsageError, match=r"^expr: ") as error:
        lambda_(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["1 / step", "-1", "1 - 2 * progress", "log(0 * step)", "9 ** 9 ** 9", "1e308 * 10"]
)
def test_an_invalid_factor_is_found_before_training(text):
    with pytest.raises(UsageError, match=r"^expr: '.*step 0|gives -") as error:
        lambda_(text).curve(HORIZON)
    assert "\n" not in str(error.value)


def test_a_function_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_schedules.py").write_text("def halve(step):\n    return 0.5 ** step\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert values(lambda_("my_schedules.halve"))[:3] == [1, 0.5, 0.25]
    assert values(multiplicative("my_schedules.halve"))[:4] == [1, 0.5, 0.125, 0.5**6]
    assert "my_schedules" in sys.modules
    for bad, message in [("my_schedules.no", "has no function no"), ("no_module.x", "no module")]:
        with pytest.raises(UsageError, match=message):
            lambda_(bad).curve(HORIZON)


def test_numbers_of_numpy_become_python_floats(tmp_path, monkeypatch):
    text = "import numpy\n\ndef f(step):\n    return numpy.float32(0.5)\n"
    (tmp_path / "numpy_schedules.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert type(values(lambda_("numpy_schedules.f"))[0]) is float


def test_a_factor_that_was_not_checked_in_advance_is_checked_in_training():
    curve = lambda_("1 if step != 7 else -50").curve(Horizon(4000))
    assert curve(6) == 1
    with pytest.raises(UsageError, match="gives -50 at step 7, not a factor >= 0"):
        curve(7)
    assert multiplicative("1 - 1 / (2 * step)").curve(HORIZON)(1) == 0.5  # never asked for step 0


NUMBERS = st.one_of(
    st.integers(0, 10**6).map(str),
    st.integers(10**300, 10**400).map(str),
    st.floats(0, allow_infinity=False).map(repr),
    st.sampled_from(["step", "progress", "total", "9" * 4000, "9" * 5000, "1e308", "1e400"]),
)


def combined(parts):
    return st.one_of(
        st.builds(
            "({} {} {})".format, parts, st.sampled_from(["+", "-", "*", "/", "//", "%"]), parts
        ),
        st.builds("({} ** {})".format, parts, parts),
        st.builds("{}({})".format, st.sampled_from(["floor", "ceil", "exp", "abs", "sqrt"]), parts),
        st.builds("pow({}, {})".format, parts, parts),
        st.builds("({} << {})".format, parts, parts),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(NUMBERS, combined, max_leaves=8))
@example("9**400")
@example("10**5000")
@example("9**3000000")
@example("9**9**9**9**9")
@example("2**floor(1e300)")
@example("floor(1e308)*floor(1e308)")
@example("(10**18)**(10**18)")
@example("1 << 10**9")
@example("0 * 9**3000000")
@example("*".join(["10**18"] * 3000))
def test_any_arithmetic_gives_a_number_or_an_error_quickly(text):
    start = time.process_time()
    try:
        value = FormulaSchedule(text).curve(Horizon(100))(50)
    except UsageError:
        value = 0.0
    assert 0 <= value < math.inf
    assert time.process_time() - start < 20  # not a timing: towers take hours


@given(st.integers(-(2**15), 2**15), st.integers(-(2**15), 2**15), st.integers(0, 3))
def test_small_integers_are_exact(a, b, n):
    expected = a**n * b - a // (b or 1) + a % (b or 1)
    formula = Formula(f"({a})**{n}*({b})-({a})//({b or 1})+({a})%({b or 1})")
    assert formula(step=0, total=1, progress=0) == expected
