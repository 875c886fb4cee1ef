"""A schedule written as a formula: arithmetic and math functions only, never code.

    0.5 * (1 + cos(pi * progress))
    1 / sqrt(1 + step / 100)
    lambda epoch: 0.95 ** epoch

Names: `step` (updates made so far), `epoch` (whole ones made so far), `progress` (the share of the
run, as `ticks` counts it), `total` (updates of the run), `pi` and `e`. What follows a `lambda` is
what it calls the step. A dotted name instead of a formula is a Python function of the step.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import simpleeval

from lit_optim.errors import UsageError, suggest
from lit_optim.schedules.core import Curve, Schedule
from lit_optim.schedules.durations import Duration, Horizon

Text = Annotated[str, "such as 0.5*(1+cos(pi*progress)), or the dotted name of a function"]
NAMES = ("step", "epoch", "progress", "total")
CONSTANTS = {"pi": math.pi, "e": math.e}
MATH = ("sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "tanh", "floor", "ceil", "pow")
FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(math, name) for name in MATH}
FUNCTIONS |= {"min": min, "max": max, "abs": abs}
#: Whole numbers are exact up to here, and floats beyond, so that no result takes long.
EXACT = 2**63
#: What a formula may be made of.
NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Name,
    ast.Load, ast.Constant, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
DOTTED = re.compile(r"[A-Za-z_]\w*(\.(?!__)[A-Za-z_]\w*)+")
LAMBDA = re.compile(r"lambda\s+([A-Za-z_]\w*)\s*:(.*)", re.DOTALL)
SAMPLES = 64
LONG = 200
#: The arguments of schedules that take one.
FORMULAS = ("expr", "lr_lambda")


def function_in(text: Any) -> str | None:
    """The dotted name if `text` is one: somebody must have allowed it before it is imported."""
    return text if isinstance(text, str) and DOTTED.fullmatch(text) else None


def _bounded(value: Any) -> Any:
    """The same number, as a float where it is a whole one past `EXACT`."""
    return float(value) if isinstance(value, int) and abs(value) > EXACT else value


def _bound(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: _bounded(function(*given))


def _power(base: Any, exponent: Any) -> Any:
    """`base ** exponent` in bounded work, which of large whole numbers is that of floats."""
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and exponent > 0 and exponent * abs(base).bit_length() > EXACT.bit_length():
        return float(base) ** float(exponent)
    return base**exponent


def _shift(value: Any, bits: Any) -> Any:
    return value << bits if bits < EXACT.bit_length() else value * _power(2, bits)


BOUNDED = {name: _bound(function) for name, function in FUNCTIONS.items()}
OPERATORS = {
    kind: _bound({ast.Pow: _power, ast.LShift: _shift}.get(kind, operator))
    for kind, operator in simpleeval.DEFAULT_OPERATORS.items()
}


class Formula:
    """A formula, checked when it is made.

    Args:
        text: see the head of this file.
        name: what messages call it.

    Raises:
        ValueError: it is no formula of these names and functions.
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
            shown = text if len(text) < LONG else f"{text[:LONG]}..."
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
                node.value = _bounded(node.value)
            if not isinstance(node, NODES) or (isinstance(node, ast.Constant) and not number):
                raise UsageError(f"{self.name}: {text} is more than arithmetic and functions")
            if isinstance(node, ast.Name):
                known = FUNCTIONS.keys() if node in called else self.known
                if node.id not in known:
                    near = suggest(node.id, known) or f"; it may use {', '.join(sorted(known))}"
                    raise UsageError(f"{self.name}: unknown {node.id!r} in {self.text!r}{near}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text, self.name)  # the evaluator cannot be pickled

    def __call__(self, **names: float) -> float:
        """Its value.

        Raises:
            ValueError: there is none, such as of 1 / 0.
        """
        self._evaluator.names = CONSTANTS | names | {self.step_name: names["step"]}
        try:
            return self._evaluator.eval(self.text, previously_parsed=self._parsed)  # type: ignore[no-any-return]
        except Exception as error:  # whatever arithmetic may end in
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UsageError(
                f"{self.name}: {self.text!r} has no value at step {names['step']} ({told})"
            ) from None


@dataclass(frozen=True)
class Lambda(Schedule):
    """A factor for each update from a formula, or from a function of the step.

    Args:
        text: the formula or the dotted name.
        name: what messages call it.
        product: whether the factors are multiplied up, each on the lr of the update before.
        interval: whether the function's argument counts steps or epochs.
    """

    text: str
    name: str = "expr"
    product: bool = False
    interval: str = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if function_in(self.text) is None:
            Formula(self.text, self.name)

    def durations(self) -> list[Duration]:  # noqa: D102
        dotted = function_in(self.text)
        epochs = dotted is None and "epoch" in Formula(self.text, self.name).uses
        return ["1 epoch"] if self.interval == "epoch" or epochs else []

    def fit(self, horizon: Horizon) -> Curve:
        """This schedule over a run of known length.

        Raises:
            ValueError: a factor is no finite number >= 0, or there is no such function.
        """
        factor = CheckedFactor(self.name, self.text, self._factor(horizon))
        every = (horizon.steps_per_epoch or 1) if self.interval == "epoch" else 1
        last = (horizon.steps - 1) // every
        for t in sorted({round(k * last / SAMPLES) for k in range(SAMPLES + 1)}):
            if t > 0 or not self.product:  # mistakes are found before training
                factor(t)
        kind = ProductCurve if self.product else FactorCurve
        return kind(factor, horizon.steps, every)

    def _factor(self, horizon: Horizon) -> Callable[[int], float]:
        dotted = function_in(self.text)
        if dotted is not None:
            return _imported(self.name, dotted)
        formula, epoch = Formula(self.text, self.name), horizon.steps_per_epoch
        if self.interval == "epoch" and epoch is None:
            raise UsageError("interval is epoch, but epochs have no known length here")
        lead = 0 if self.ticks == "start" else 1
        return FormulaFactor(formula, horizon.steps, epoch, self.interval == "epoch", lead)


@dataclass(frozen=True)
class CheckedFactor:
    """A factor for each step, which must be a finite number >= 0.

    Args:
        name: what messages call it.
        text: what the user has written.
        factor: what gives it.

    Raises:
        ValueError: it is none.
    """

    name: str
    text: str
    factor: Callable[[int], Any]

    def __call__(self, t: int) -> float:  # noqa: D102
        value = self.factor(t)
        try:
            plain = float(value)  # numpy's numbers would not load under weights_only
        except (TypeError, ValueError):
            plain = math.nan
        except OverflowError:  # a whole number of so many digits; they are not worth showing
            value = plain = math.inf
        if not 0 <= plain < math.inf:
            raise UsageError(
                f"{self.name}: {self.text!r} gives {value!r} at step {t}, no factor >= 0"
            )
        return plain


@dataclass(frozen=True)
class FormulaFactor:
    """A formula over a run.

    Args:
        formula: of `step`, `epoch`, `progress` and `total`.
        total: the updates of the run.
        epoch: those of an epoch, where that is known.
        of_epochs: whether what it is called with are epochs.
        lead: how far `progress` is ahead.
    """

    formula: Formula
    total: int
    epoch: int | None
    of_epochs: bool
    lead: int

    def __call__(self, t: int) -> float:  # noqa: D102
        names = {"step": t, "total": self.total}
        if self.epoch is not None:
            names["epoch"] = t if self.of_epochs else t // self.epoch
        return self.formula(progress=min(1.0, (t + self.lead) / self.total), **names)


def _imported(name: str, dotted: str) -> Callable[[int], float]:
    module, _, attribute = dotted.rpartition(".")
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{name}={dotted}: there is no module {error.name}") from None
        raise
    if not callable(found):
        raise UsageError(f"{name}={dotted}: {module} has no function {attribute}")
    return found  # type: ignore[no-any-return]


class FactorCurve(Curve):
    """A factor per update, or per epoch of `every` updates."""

    def __init__(self, factor: Callable[[int], float], total: int, every: int = 1) -> None:
        super().__init__(total)
        self.factor = factor
        self.every = every

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The factor of the last update holds after it."""
        return lr * self.factor(min(t, self.total - 1) // self.every)


class ProductCurve(FactorCurve):
    """Factors multiplied up: the first update has the lr itself.

    Remembers the product so far; asked for another update than the next, it starts anew.
    """

    def __init__(self, factor: Callable[[int], float], total: int, every: int = 1) -> None:
        super().__init__(factor, total, every)
        self._count = 0
        self._product = 1.0

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """O(1) for the next update, O(t) for any other."""
        count = min(t, self.total - 1) // self.every
        if count < self._count:
            self._count, self._product = 0, 1.0
        while self._count < count:
            self._count += 1
            self._product *= self.factor(self._count)
        return lr * self._product

    def sample(self, t: int) -> float:
        """Its factor alone; a product costs all those before."""
        return self.factor(t // self.every)

    def state_dict(self) -> dict[str, Any]:
        """How many factors are in the product, and the product."""
        return {"count": self._count, "product": self._product}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self._count, self._product = state["count"], state["product"]
