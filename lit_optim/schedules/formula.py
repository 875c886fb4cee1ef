"""Formulas that the user writes: arithmetic and math functions only, never code.

    0.5 * (1 + cos(pi * progress))
    1 / sqrt(1 + step / 100)
    lambda epoch: 0.95 ** epoch

Names: `step` (updates so far), `epoch` (whole epochs so far), `progress` (the fraction of the run
that is done, by the step alignment), `total` (updates in the run), `pi` and `e`. A `lambda` gives
the step another name. Instead of a formula, the user may give the dotted name of a Python function
of the step.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any

import simpleeval

from lit_optim.errors import UsageError, suggest

FormulaText = Annotated[str, "such as 0.5*(1+cos(pi*progress)), or the dotted name of a function"]
NAMES = ("step", "epoch", "progress", "total")
CONSTANTS = {"pi": math.pi, "e": math.e}
MATH = ("sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "tanh", "floor", "ceil", "pow")
FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(math, name) for name in MATH}
FUNCTIONS |= {"min": min, "max": max, "abs": abs}
#: Integers above this become floats, so that no result takes long.
LARGEST_INT = 2**63
#: The syntax that a formula may use.
ALLOWED_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Name,
    ast.Load, ast.Constant, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
DOTTED = re.compile(r"[A-Za-z_]\w*(\.(?!__)[A-Za-z_]\w*)+")
LAMBDA = re.compile(r"lambda\s+([A-Za-z_]\w*)\s*:(.*)", re.DOTALL)
MAX_SHOWN = 200  # characters of a formula in a message
#: The arguments of schedules that take a formula.
FORMULA_ARGUMENTS = ("expr", "lr_lambda")


def dotted_function(text: Any) -> str | None:
    """Return `text` if it is a dotted name; the user must allow it before it is imported."""
    return text if isinstance(text, str) and DOTTED.fullmatch(text) else None


def _limit_integer(value: Any) -> Any:
    """Convert an integer above `LARGEST_INT` to a float."""
    return float(value) if isinstance(value, int) and abs(value) > LARGEST_INT else value


def _limit_result(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: _limit_integer(function(*given))


def _power(base: Any, exponent: Any) -> Any:
    """`base ** exponent` in bounded time: with floats if the result is a large integer."""
    are_ints = isinstance(base, int) and isinstance(exponent, int)
    if are_ints and exponent > 0 and exponent * abs(base).bit_length() > LARGEST_INT.bit_length():
        return float(base) ** float(exponent)
    return base**exponent


def _shift(value: Any, bits: Any) -> Any:
    return value << bits if bits < LARGEST_INT.bit_length() else value * _power(2, bits)


BOUNDED = {name: _limit_result(function) for name, function in FUNCTIONS.items()}
OPERATORS = {
    kind: _limit_result({ast.Pow: _power, ast.LShift: _shift}.get(kind, operator))
    for kind, operator in simpleeval.DEFAULT_OPERATORS.items()
}


class Formula:
    """A formula, checked when it is created.

    Args:
        text: see the docstring of this module.
        name: its name in messages.

    Raises:
        ValueError: it is not a formula of these names and functions.
    """

    def __init__(self, text: str, name: str = "expr") -> None:
        self.name = name
        self.text = text
        given = LAMBDA.fullmatch(text.strip())
        self.step_name, body = (given[1], given[2]) if given else ("step", text)
        self.known = {*NAMES, *CONSTANTS, self.step_name}
        try:
            tree = ast.parse(body.strip(), mode="eval")
            self._check(tree)
        except UsageError:
            raise
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            shown = text if len(text) < MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
            raise UsageError(f"{name}: cannot read {shown!r} as a formula") from None
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        self.uses = used - {self.step_name}
        self._parsed = tree.body
        self._evaluator = simpleeval.SimpleEval(OPERATORS, functions=BOUNDED)

    def _check(self, tree: ast.AST) -> None:
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for node in ast.walk(tree):
            text = repr(self.text)
            number = isinstance(node, ast.Constant) and type(node.value) in (int, float, bool)
            if isinstance(node, ast.Constant) and isinstance(node.value, int):
                if node.value > sys.float_info.max:
                    raise UsageError(f"{self.name}: a number in {text} is too large")
                node.value = _limit_integer(node.value)
            if not isinstance(node, ALLOWED_NODES) or (
                isinstance(node, ast.Constant) and not number
            ):
                raise UsageError(f"{self.name}: {text} may use only arithmetic and functions")
            if isinstance(node, ast.Name):
                known = FUNCTIONS.keys() if node in called else self.known
                if node.id not in known:
                    near = suggest(node.id, known) or f"; it may use {', '.join(sorted(known))}"
                    raise UsageError(f"{self.name}: unknown {node.id!r} in {self.text!r}{near}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text, self.name)  # the evaluator cannot be pickled

    def __call__(self, **names: float) -> float:
        """Evaluate it.

        Raises:
            ValueError: it has no value, such as 1 / 0.
        """
        self._evaluator.names = CONSTANTS | names | {self.step_name: names["step"]}
        try:
            return self._evaluator.eval(self.text, previously_parsed=self._parsed)  # type: ignore[no-any-return]
        except Exception as error:  # arithmetic raises many kinds of errors
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UsageError(
                f"{self.name}: {self.text!r} has no value at step {names['step']} ({reason})"
            ) from None
