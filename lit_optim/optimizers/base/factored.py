"""Algorithms whose second moment is kept as row and column means, on a kernel of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_optim.kernels import factored_cpu
from lit_optim.kernels.factored_cpu import Row
from lit_optim.kernels.precision import accumulation_dtype
from lit_optim.optimizers.base.optimizer import Batch
from lit_optim.optimizers.base.tensorwise import Tensorwise


class Factored(Tensorwise):
    """An optimizer in the way of Adafactor.

    A subclass writes what those of `Tensorwise` write, and beside it, for the kernel, the names of
    its states and `numbers`.
    """

    has_kernel: ClassVar[bool] = True
    #: Row means, column means, and the second moment of what is no matrix.
    row: ClassVar[str]
    column: ClassVar[str]
    vector: ClassVar[str]
    #: The average of the updates, and the size of the parameter; where they are kept.
    average: ClassVar[str | None] = None
    size: ClassVar[str | None] = None

    def numbers(self, h: SimpleNamespace, dtype: Any) -> dict[str, Any]:
        """What the kernel needs to know.

        With squares s = g² + add, means r and c of rows and columns, EMAs by `take`:

            v = r c / max(mean of r, least_mean);   u = g min(1 / sqrt(v), most)
            b = b max(RMS(p), least_size) if scaled;   u = u / max(1, RMS(u) / d)
            m = m + average (b u - m), or b u
            p = a p - (b weight_decay p + m)

        A NaN in u makes all of it NaN if `spreads`, through RMS(u).

        Args:
            h: the scalars of this update.
            dtype: in which is computed.
        """
        raise NotImplementedError

    def update(  # noqa: D102
        self, group: dict[str, Any], batch: Batch, h: SimpleNamespace, t: int
    ) -> None:
        if group["executor"] != "torch":
            batch = self._natively(group, batch, h)
        if batch.params:
            super().update(group, batch, h, t)

    def _natively(self, group: dict[str, Any], batch: Batch, h: SimpleNamespace) -> Batch:
        """Go over what the kernel can; returns the others."""
        kinds: dict[Any, list[int]] = {}
        others: list[int] = []
        why_not: str | None = None
        rows = [self._row(batch, i) for i in range(len(batch.params))]
        for i, row in enumerate(rows):
            why = factored_cpu.unsupported_reason(row)
            if why is None:
                kinds.setdefault((row.p.dtype, row.g.dtype), []).append(i)
            else:
                others, why_not = [*others, i], why
        if others and group["executor"] == "native":
            self.refuse(why_not)
        for members in kinds.values():
            numbers = self.numbers(h, rows[members[0]].r.dtype)
            why = factored_cpu.step([rows[i] for i in members], numbers | {"maximize": h.maximize})
            if why is not None:
                others, why_not = others + members, why
        if others and group["executor"] == "native":
            self.refuse(why_not)
        self.tell(len(batch.params), len(others), why_not)
        return batch.part(others)

    def _row(self, batch: Batch, i: int) -> Row:
        p, g, state = batch.params[i], batch.grads[i], batch.states[i]
        matrix = p.ndim > 1
        return Row(
            p,
            g,
            state[self.row if matrix else self.vector],
            state[self.column] if matrix else None,
            state.get(self.average or ""),
            state.get(self.size or ""),
        )


def mean_squares(x: Tensor, dim: int) -> Tensor:
    """The means of x² along a dimension, which stays, with 1 element; as the kernel stores them.

    Of a float32 x they may be larger than a float32 can be. They are then the largest float32, for
    infinite means would leave nothing of their ratios. Those of an infinite x stay infinite.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=accumulation_dtype(x.device))
    mean = length * length / x.shape[dim]
    most = torch.finfo(x.dtype).max
    return torch.where(mean.isinf(), mean, mean.clamp(max=most)).to(x.dtype)


def mean_rows(r: Tensor, dim: int) -> Tensor:
    """The mean of row means along a dimension, which stays, with 1 element; added up as doubles."""
    return r.mean(dim, keepdim=True, dtype=accumulation_dtype(r.device)).to(r.dtype)
