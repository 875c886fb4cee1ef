"""The passes of Adafactor's step over the shard of a matrix, each a compiled loop."""

from __future__ import annotations

from array import array
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels import cpu
from lit_optim.kernels.codegen.factored_shard_c import (
    DIRECTION,
    MOMENTS,
    MOVE,
    generate_factored_shard_c,
)
from lit_optim.kernels.compiler import CannotCompile, load_kernel
from lit_optim.kernels.factored_cpu import Row, unsupported_reason
from lit_optim.kernels.precision import FORMATS

_kernels: dict[tuple[str, str], Any] = {}


class ShardKernel:
    """The kernel for one shard of a matrix, or of several matrices.

    Args:
        row: its tensors; `reason_against` is None for it.
    """

    def __init__(self, row: Row) -> None:
        self.row, (self.batch, self.rows, self.columns) = row, row.shape()
        self.each, parts = row.split()
        self.kernel = _get_kernel(FORMATS[row.p.dtype], FORMATS[row.g.dtype])
        self.of_rows = torch.empty(self.batch * self.rows, dtype=torch.float64)
        self.of_columns = torch.empty(self.batch * self.columns, dtype=torch.float64)
        self.sum = torch.zeros(1, dtype=torch.float64)
        self.scratch = torch.empty(parts * (1 + self.columns), dtype=torch.float64)

    def add_up(self) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of squares of p [1], and of g along its rows and columns, flat."""
        self._run(MOMENTS, (), [0.0] * 5)
        return self.sum.clone(), self.of_rows, self.of_columns

    def square_direction(self, inverses: tuple[Tensor, ...], most: float) -> Tensor:
        """The sum of squares of the direction [1], given 1 / sqrt of row and column means."""
        self._run(DIRECTION, inverses, [most, 0.0, 0.0, 0.0, 0.0])
        return self.sum

    def move(self, inverses: tuple[Tensor, ...], numbers: list[float]) -> None:
        """Update the shard; the numbers are `NUMBERS` of the C text."""
        self._run(MOVE, inverses, numbers)

    def _run(self, which: int, inverses: tuple[Tensor, ...], numbers: list[float]) -> None:
        row = self.row
        tensors = [row.p, row.g, row.m, *(inverses or (None, None))]
        tensors += [self.of_rows, self.of_columns, self.scratch, self.sum]
        fields = [0 if x is None else x.data_ptr() for x in tensors]
        shard = array("q", [*fields, self.batch, self.rows, self.columns, self.each])
        h = array("d", numbers)
        threads = cpu.count_threads(row.p.numel())
        self.kernel(shard.buffer_info()[0], h.buffer_info()[0], which, threads)


def reason_against(row: Row) -> str | None:
    """Why no kernel takes this shard; None if one does."""
    reason = unsupported_reason(row)
    if reason is None:
        kernel = _get_kernel(FORMATS[row.p.dtype], FORMATS[row.g.dtype])
        reason = str(kernel) if isinstance(kernel, CannotCompile) else None
    return reason


def _get_kernel(p: str, g: str) -> Any:
    """Return the function, or the error that there is none."""
    if (p, g) not in _kernels:
        try:
            _kernels[p, g] = load_kernel(generate_factored_shard_c(p, g))
        except CannotCompile as error:
            _kernels[p, g] = error
    return _kernels[p, g]
