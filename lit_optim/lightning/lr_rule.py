"""The lr by the global batch: what one update sees over all devices, accumulated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from lit_optim.hyperparameters import check

Base = Annotated[int, "> 0"]


@dataclass(frozen=True)
class LrRule:
    """Multiplies the lr of every group by batch / base, or by the root of it.

    Args:
        name: linear or sqrt.
        base: the global batch, in samples, for which the lr was found.
    """

    name: Literal["linear", "sqrt"]
    base: int

    def factor(self, batch: int) -> float:
        """What the lr is multiplied by for a global batch of so many samples."""
        ratio = batch / self.base
        return ratio if self.name == "linear" else math.sqrt(ratio)


def none() -> None:
    """The lr as it is."""


def linear(base: Base = 256) -> LrRule:
    """The lr by batch / base: k batches in one make k steps in one.

    Goyal et al. 2017, Accurate, Large Minibatch SGD, arXiv:1706.02677.

    Args:
        base: the global batch, in samples, for which the lr was found.
    """
    check(linear, {"base": base})
    return LrRule("linear", base)


def sqrt(base: Base = 256) -> LrRule:
    """The lr by the root of batch / base: the noise of a step stays the same.

    Krizhevsky 2014, One weird trick, arXiv:1404.5997; for Adam: Malladi et al. 2022,
    arXiv:2205.10287.

    Args:
        base: the global batch, in samples, for which the lr was found.
    """
    check(sqrt, {"base": base})
    return LrRule("sqrt", base)
