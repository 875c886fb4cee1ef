"""Schedules that the user writes as a formula, or as the dotted name of a Python function.

Raises (all of them): ValueError naming the argument, the value given and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from typing_extensions import Unpack, override

from lit_optim.errors import UsageError
from lit_optim.schedules.arguments import CommonArguments
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import Duration, Horizon
from lit_optim.schedules.formula import Formula, FormulaText, dotted_function
from lit_optim.schedules.registry import schedule

#: The number of updates at which a formula is evaluated before training, to find mistakes.
CHECKED_UPDATES = 64


@dataclass(frozen=True, repr=False)
class FormulaSchedule(Schedule):
    """A factor for each update, computed by a formula or a function of the step.

    Args:
        text: the formula or the dotted name.
        name: its name in messages.
        product: whether each factor multiplies the lr of the update before.
        interval: whether the function's argument counts steps or epochs.
    """

    text: str
    name: str = "expr"
    product: bool = False
    interval: str = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if dotted_function(self.text) is None:
            Formula(self.text, self.name)

    @override
    def durations(self) -> list[Duration]:
        dotted = dotted_function(self.text)
        epochs = dotted is None and "epoch" in Formula(self.text, self.name).uses
        return ["1 epoch"] if self.interval == "epoch" or epochs else []

    def build_curve(self, horizon: Horizon) -> Curve:
        """Fit this schedule to a run of known length.

        Raises:
            ValueError: a factor is not a finite number >= 0, or there is no such function.
        """
        factor = CheckedFactor(self.name, self.text, self._factor(horizon))
        every = (horizon.steps_per_epoch or 1) if self.interval == "epoch" else 1
        last = (horizon.steps - 1) // every
        for t in sorted({round(k * last / CHECKED_UPDATES) for k in range(CHECKED_UPDATES + 1)}):
            if t > 0 or not self.product:  # find mistakes before training
                factor(t)
        kind = ProductCurve if self.product else FactorCurve
        return kind(factor, horizon.steps, every)

    def _factor(self, horizon: Horizon) -> Callable[[int], float]:
        dotted = dotted_function(self.text)
        if dotted is not None:
            return _import_function(self.name, dotted)
        formula, epoch = Formula(self.text, self.name), horizon.steps_per_epoch
        if self.interval == "epoch" and epoch is None:
            raise UsageError("interval is epoch, but epochs have no known length here")
        lead = 0 if self.step_alignment == "start" else 1
        return FormulaFactor(formula, horizon.steps, epoch, self.interval == "epoch", lead)


@dataclass(frozen=True)
class CheckedFactor:
    """A factor for each step, checked to be a finite number >= 0.

    Args:
        name: its name in messages.
        text: the formula or function as the user wrote it.
        factor: computes the factor.

    Raises:
        ValueError: it is not a finite number >= 0.
    """

    name: str
    text: str
    factor: Callable[[int], Any]

    def __call__(self, t: int) -> float:
        """The factor at step t."""
        value = self.factor(t)
        try:
            plain = float(value)  # numpy's numbers would not load under weights_only
        except (TypeError, ValueError):
            plain = math.nan
        except OverflowError:  # an integer with too many digits to show
            value = plain = math.inf
        if not 0 <= plain < math.inf:
            raise UsageError(
                f"{self.name}: {self.text!r} gives {value!r} at step {t}, not a factor >= 0"
            )
        return plain


@dataclass(frozen=True)
class FormulaFactor:
    """A formula evaluated over a run.

    Args:
        formula: of `step`, `epoch`, `progress` and `total`.
        total: the updates in the run.
        epoch: the updates in an epoch, if known.
        counts_epochs: whether its argument is an epoch, not a step.
        lead: added to the step when computing `progress`.
    """

    formula: Formula
    total: int
    epoch: int | None
    counts_epochs: bool
    lead: int

    def __call__(self, t: int) -> float:
        """The factor at step t."""
        names = {"step": t, "total": self.total}
        if self.epoch is not None:
            names["epoch"] = t if self.counts_epochs else t // self.epoch
        return self.formula(progress=min(1.0, (t + self.lead) / self.total), **names)


def _import_function(name: str, dotted: str) -> Callable[[int], float]:
    module, _, attribute = dotted.rpartition(".")
    try:
        function = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{name}={dotted}: there is no module {error.name}") from None
        raise
    if not callable(function):
        raise UsageError(f"{name}={dotted}: {module} has no function {attribute}")
    return function  # type: ignore[no-any-return]


class FactorCurve(Curve):
    """A factor per update, or per `every` updates."""

    def __init__(self, factor: Callable[[int], float], total: int, every: int = 1) -> None:
        super().__init__(total)
        self.factor = factor
        self.every = every

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The lr times the factor; the factor of the last update stays."""
        return lr * self.factor(min(t, self.total - 1) // self.every)


class ProductCurve(FactorCurve):
    """The product of all factors so far; the first update has the lr itself.

    It remembers the product, and recomputes it when called for an earlier update.
    """

    def __init__(self, factor: Callable[[int], float], total: int, every: int = 1) -> None:
        super().__init__(factor, total, every)
        self._count = 0
        self._product = 1.0

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The lr times the product: O(1) for the next update, O(t) for others."""
        count = min(t, self.total - 1) // self.every
        if count < self._count:
            self._count, self._product = 0, 1.0
        while self._count < count:
            self._count += 1
            self._product *= self.factor(self._count)
        return lr * self._product

    def sample(self, t: int) -> float:
        """The factor alone, since a product costs all the factors before it."""
        return self.factor(t // self.every)

    def state_dict(self) -> dict[str, Any]:
        """The number of factors in the product, and the product."""
        return {"count": self._count, "product": self._product}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count, self._product = state["count"], state["product"]


@schedule
def lambda_(
    expr: FormulaText = "0.5*(1+cos(pi*progress))", **common: Unpack[CommonArguments]
) -> FormulaSchedule:
    """Multiply the base lr by a formula or function of the step.

    torch's LambdaLR.
    """
    return FormulaSchedule(expr, **common)


@schedule
def multiplicative(
    expr: FormulaText = "0.01**(1/total)", **common: Unpack[CommonArguments]
) -> FormulaSchedule:
    """Multiply the previous lr by a formula or function of the step.

    torch's MultiplicativeLR. The product so far is saved in checkpoints.
    """
    return FormulaSchedule(expr, product=True, **common)
