"""Rules that scale the lr by the global batch size, over devices and accumulation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from lit_optim.hyperparameters import check

Base = Annotated[int, "> 0"]


@dataclass(frozen=True)
class LrRule:
    """Multiplies the lr of every group by batch / base, or by its square root.

    Args:
        name: linear or sqrt.
        base: the global batch size, in samples, for which the lr was chosen.
    """

    name: Literal["linear", "sqrt"]
    base: int

    def factor(self, batch: int) -> float:
        """Return the factor of the lr for a global batch of `batch` samples."""
        ratio = batch / self.base
        return ratio if self.name == "linear" else math.sqrt(ratio)


def none() -> None:
    """Leave the lr as it is."""


def linear(base: Base = 256) -> LrRule:
    """Scale the lr by batch / base: an update on k batches replaces k updates.

    Goyal et al. 2017, Accurate, Large Minibatch SGD, arXiv:1706.02677.

    Args:
        base: the global batch size, in samples, for which the lr was chosen.
    """
    check(linear, {"base": base})
    return LrRule("linear", base)


def sqrt(base: Base = 256) -> LrRule:
    """Scale the lr by the square root of batch / base, which keeps the noise of an update.

    Krizhevsky 2014, One weird trick, arXiv:1404.5997; for Adam: Malladi et al. 2022,
    arXiv:2205.10287.

    Args:
        base: the global batch size, in samples, for which the lr was chosen.
    """
    check(sqrt, {"base": base})
    return LrRule("sqrt", base)
