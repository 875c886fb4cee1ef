"""Updates parameters by Adafactor's factored second moment in a compiled loop.

The second moment of a matrix is stored as its row means and column means.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels import cpu
from lit_optim.kernels.codegen.factored_c import NUMBERS, SUMS, SWITCHES, generate_factored_c
from lit_optim.kernels.compiler import CannotCompile, load_kernel
from lit_optim.kernels.precision import FORMATS, compute_dtype

#: The least number of elements of a part of a tensor, and the largest number of parts.
PART_SIZE, MAX_PARTS = 1 << 16, 64

_kernels: dict[tuple[str, str], Any] = {}
_failure: CannotCompile | None = None


@dataclass
class Row:
    """The tensors of a parameter.

    Args:
        p: the parameter.
        g: its gradient.
        r: the row means of a batch of matrices, or the second moment of a vector or scalar.
        c: the column means; None for a vector or scalar.
        m: the momentum (the average of the updates), or None.
        size: where to store the root mean square of p, or None.
    """

    p: Tensor
    g: Tensor
    r: Tensor
    c: Tensor | None
    m: Tensor | None
    size: Tensor | None

    def to_struct(self) -> list[int]:
        """Return the fields of the C struct: addresses, shape and rows per part."""
        kept = (self.p, self.g, self.r, self.c, self.m, self.size)
        return [0 if x is None else x.data_ptr() for x in kept] + [*self.shape(), self.split()[0]]

    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of matrices, rows and columns; 0 columns for a vector or scalar."""
        if self.c is None:
            return 1, self.p.numel(), 0
        *_, rows, columns = self.p.shape
        return self.p.numel() // (rows * columns), rows, columns

    def split(self) -> tuple[int, int]:
        """Return the rows (or, of several matrices, the matrices) per part, and the parts."""
        batch, rows, _ = self.shape()
        units = batch if batch > 1 else rows
        size = self.p.numel() // units
        each = max(-(-PART_SIZE // size), -(-units // MAX_PARTS))
        return each, -(-units // each)


def unsupported_reason(row: Row) -> str | None:
    """Return why no native kernel can update these tensors, or None if one can."""
    reason = cpu.unsupported_reason([row.p, row.g])
    if reason is not None:
        return reason
    if not row.p.is_contiguous():
        return "a parameter is not contiguous in memory"
    for state in (row.r, row.c, row.m, row.size):
        if state is not None and not (
            type(state) is Tensor
            and state.is_cpu
            and state.dtype is compute_dtype(row.p)
            and state.is_contiguous()
        ):
            return "a state has another device, dtype or memory layout than the kernel needs"
    return None


def step(rows: Sequence[Row], h: Mapping[str, Any]) -> str | None:
    """Update many tensors once, in place.

    Args:
        rows: all supported, and of the same dtypes.
        h: `NUMBERS` and `SWITCHES` of the C text.

    Returns:
        None, or why no kernel can be compiled; then nothing was changed.
    """
    rows = [row for row in rows if row.p.numel()]
    if not rows:
        return None
    kernel = _get_kernel(FORMATS[rows[0].p.dtype], FORMATS[rows[0].g.dtype])
    if isinstance(kernel, str):
        return kernel
    threads = cpu.count_threads(sum(row.p.numel() for row in rows))
    own, shared = _scratch_sizes(rows)
    scratch = torch.empty(threads * own + shared, dtype=torch.float64)
    structs = array("q", [field for row in rows for field in row.to_struct()])
    numbers = array("d", [float(h[name]) for name in (*NUMBERS, *SWITCHES)])
    call = array("q", [len(rows), structs.buffer_info()[0], scratch.data_ptr(), own])
    kernel(call.buffer_info()[0], numbers.buffer_info()[0], 0, threads)
    return None


def _get_kernel(p: str, g: str) -> Any:
    """Return the function, or in one line why there is none."""
    global _failure
    if _failure is None and (p, g) not in _kernels:
        try:
            _kernels[p, g] = load_kernel(generate_factored_c(p, g))
        except CannotCompile as error:
            _failure = error
    return str(_failure) if _failure else _kernels[p, g]


def _scratch_sizes(rows: Sequence[Row]) -> tuple[int, int]:
    """Return how many numbers of scratch memory each thread needs, and all threads together."""
    own = shared = 0
    for row in rows:
        parts, size = row.split()[1], SUMS + 2 * row.shape()[2]
        if parts == 1:
            own = max(own, size)
        else:
            shared = max(shared, parts * size)
    return own, shared
