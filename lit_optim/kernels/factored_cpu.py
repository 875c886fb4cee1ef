"""Runs Adafactor's second moment, kept as row and column means, as a compiled loop."""

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

#: Elements that a part of a tensor has at least, and how many parts there are at most.
PART, MOST_PARTS = 1 << 16, 64

_kernels: dict[tuple[str, str], Any] = {}
_failure: CannotCompile | None = None


@dataclass
class Row:
    """The tensors of a parameter.

    Args:
        p: the parameter.
        g: its gradient.
        r: row means of a batch of matrices; or the second moment of a vector or single number.
        c: column means; None of a vector or single number.
        m: the average of the updates, or None.
        size: where the root mean square of p is left, or None.
    """

    p: Tensor
    g: Tensor
    r: Tensor
    c: Tensor | None
    m: Tensor | None
    size: Tensor | None

    def places(self) -> list[int]:
        """As the C text has them."""
        kept = (self.p, self.g, self.r, self.c, self.m, self.size)
        return [0 if x is None else x.data_ptr() for x in kept] + [*self.shape(), self.part()[0]]

    def shape(self) -> tuple[int, int, int]:
        """Matrices, rows and columns; columns are 0 of what is no matrix."""
        if self.c is None:
            return 1, self.p.numel(), 0
        *_, rows, columns = self.p.shape
        return self.p.numel() // (rows * columns), rows, columns

    def part(self) -> tuple[int, int]:
        """Whole rows of a part, or of several matrices whole ones; and the number of parts."""
        batch, rows, _ = self.shape()
        units = batch if batch > 1 else rows
        size = self.p.numel() // units
        each = max(-(-PART // size), -(-units // MOST_PARTS))
        return each, -(-units // each)


def unsupported_reason(row: Row) -> str | None:
    """Why these tensors cannot be stepped natively; None if they can."""
    why = cpu.unsupported_reason([row.p, row.g])
    if why is not None:
        return why
    if not row.p.is_contiguous():
        return "rows and columns do not lie one after the other in memory"
    for state in (row.r, row.c, row.m, row.size):
        if state is not None and not (
            type(state) is Tensor
            and state.is_cpu
            and state.dtype is compute_dtype(row.p)
            and state.is_contiguous()
        ):
            return "a state is not where or what it should be"
    return None


def step(rows: Sequence[Row], h: Mapping[str, Any]) -> str | None:
    """One update of many tensors, in place.

    Args:
        rows: none of them refused, the dtypes of all alike.
        h: `NUMBERS` and `SWITCHES` of the C text.

    Returns:
        None, or why no kernel can be made; then nothing is done.
    """
    rows = [row for row in rows if row.p.numel()]
    if not rows:
        return None
    kernel = _kernel(FORMATS[rows[0].p.dtype], FORMATS[rows[0].g.dtype])
    if isinstance(kernel, str):
        return kernel
    threads = cpu.count_threads(sum(row.p.numel() for row in rows))
    own, shared = _rooms(rows)
    scratch = torch.empty(threads * own + shared, dtype=torch.float64)
    places = array("q", [place for row in rows for place in row.places()])
    numbers = array("d", [float(h[name]) for name in (*NUMBERS, *SWITCHES)])
    call = array("q", [len(rows), places.buffer_info()[0], scratch.data_ptr(), own])
    kernel(call.buffer_info()[0], numbers.buffer_info()[0], 0, threads)
    return None


def _kernel(p: str, g: str) -> Any:
    """The function, or in one line why there is none."""
    global _failure
    if _failure is None and (p, g) not in _kernels:
        try:
            _kernels[p, g] = load_kernel(generate_factored_c(p, g))
        except CannotCompile as error:
            _failure = error
    return str(_failure) if _failure else _kernels[p, g]


def _rooms(rows: Sequence[Row]) -> tuple[int, int]:
    """How many numbers of scratch a thread needs for itself, and all need together."""
    own = shared = 0
    for row in rows:
        parts, room = row.part()[1], SUMS + 2 * row.shape()[2]
        if parts == 1:
            own = max(own, room)
        else:
            shared = max(shared, parts * room)
    return own, shared
