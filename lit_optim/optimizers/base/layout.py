"""How matrices are stored in parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_optim.errors import UsageError, show
from lit_optim.hyperparameters import accepts, describe, plain
from lit_optim.optimizers.base.types import AtLeastOne, Group
from lit_optim.sharding.boxes import Box

#: The keys of a group that describe it.
LAYOUT: dict[str, Any] = {"split": AtLeastOne, "transposed": bool}


def check_layout(group: Group) -> None:
    """Check the keys of a group that describe how matrices are stored.

    Raises:
        UsageError: one has another type, or is out of range.
    """
    for key, kind in LAYOUT.items():
        if key in group and not accepts(plain(group[key]), kind):
            raise UsageError(f"{key} must be {describe(kind)}, got {show(group[key])}")


@dataclass(frozen=True)
class Layout:
    """How the parameters of a group store matrices [out, in].

    Args:
        split: the number of matrices that are stacked in each parameter, along its outputs.
        transposed: whether a parameter is [in, out, ...] instead of [out, in, ...].
    """

    split: int = 1
    transposed: bool = False

    @classmethod
    def of(cls, group: Group) -> Layout:
        """The layout of a group."""
        return cls(group.get("split", 1), group.get("transposed", False))

    def rows(self, p: Tensor) -> int:
        """The number of rows of all matrices in a parameter together."""
        return self._turn(p).shape[0]

    def shape(self, p: Tensor) -> tuple[int, int]:
        """The numbers of rows and columns of each matrix in a parameter."""
        return self.rows(p) // self.split, math.prod(self._turn(p).shape[1:])

    def boxes(self, p: Tensor) -> list[Box]:
        """Where each matrix is in a parameter."""
        size, sides = self.rows(p) // self.split, [(0, side) for side in p.shape]
        dim = 1 if self.transposed else 0
        return [
            (*sides[:dim], (k * size, (k + 1) * size), *sides[dim + 1 :]) for k in range(self.split)
        ]

    def to_matrices(self, x: Tensor) -> Tensor:
        """What has the shape of a parameter, as matrices: [split, m, n]."""
        return self._turn(x).reshape(self.split, *self.shape(x))

    def to_parameter(self, matrices: Tensor, p: Tensor) -> Tensor:
        """The matrices [split, m, n] in the shape of a parameter."""
        return self._turn(matrices.reshape(self._turn(p).shape))

    def _turn(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1) if self.transposed else x
