"""The base of Adafactor: the second moment is factored into row and column means."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_optim.kernels import factored_cpu
from lit_optim.kernels.factored_cpu import Row
from lit_optim.kernels.factored_shard_cpu import reason_against
from lit_optim.kernels.precision import accumulation_dtype, compute_dtype
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.factored_shards import FactoredShard
from lit_optim.optimizers.base.optimizer import zeros_for
from lit_optim.optimizers.base.tensorwise import Tensorwise
from lit_optim.optimizers.base.types import Group, Scalars
from lit_optim.sharding import Steps, local_tensor
from lit_optim.sharding.dimensions import zeros_without_dimension


class Factored(Tensorwise):
    """An optimizer with a factored second moment, and a kernel of its own.

    A subclass writes `direction`, and for the kernel the names of its states and `numbers`.
    """

    has_kernel: ClassVar[bool] = True
    #: The names of the states: row means, column means, and the second moment of a vector.
    row: ClassVar[str]
    column: ClassVar[str]
    vector: ClassVar[str]
    #: Whether row and column means keep the dimension that they are means over, with length 1.
    keeps_dimension: ClassVar[bool] = False
    #: The names of the average of the updates and of the size of the parameter, if kept; and of the
    #: decay rate of the average, without which it is not kept.
    average: ClassVar[str | None] = None
    size: ClassVar[str | None] = None
    average_beta: ClassVar[str] = "beta1"

    def numbers(self, h: SimpleNamespace, dtype: torch.dtype) -> Scalars:
        """The scalars of the kernel.

        With squares s = g² + add, and r and c the averages of its row and column means, which
        take in `take` of the new ones:

            v = r c / max(mean of r, least_mean);   u = g min(1 / sqrt(v), most)
            b = b max(RMS(p), least_size) if scaled;   u = u / max(1, RMS(u) / d)
            m = m + average (b u - m), or b u
            p = a p - (b weight_decay p + m)

        A NaN in u makes all of it NaN if `spreads`, through RMS(u).

        Args:
            h: the scalars of this update.
            dtype: the dtype of the computation.
        """
        raise NotImplementedError

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        dtype = compute_dtype(p)
        if p.ndim < 2:
            state = {self.vector: zeros_for(p)}
        else:
            rows, columns, keeps = p.ndim - 2, p.ndim - 1, self.keeps_dimension
            state = {
                self.row: zeros_without_dimension(p, columns, keeps, dtype),
                self.column: zeros_without_dimension(p, rows, keeps, dtype),
            }
        if self.size is not None:
            state[self.size] = local_tensor(p).new_zeros((), dtype=dtype)
        if self.average is not None and group[self.average_beta] is not None:
            state[self.average] = zeros_for(p)
        return state

    def update(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> None:
        if group["executor"] != "torch":
            batch = self._run_native(group, batch, h)
        if batch.params:
            super().update(group, batch, h, t)

    def update_shards(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> Steps:
        local, shards = batch.local(), []
        for i, p in enumerate(batch.params):
            self.reject_sparse(local.grads[i])
            if p.numel():
                row = self._row(local, i)
                numbers = self.numbers(h, row.r.dtype)
                # vectors and empty shards need no kernel
                is_native = group["executor"] != "torch" and row.c is not None and row.p.numel() > 0
                if is_native and (reason := reason_against(row)) is not None:
                    if group["executor"] == "native":
                        self.reject_native(reason)
                    is_native = False
                shards.append(FactoredShard(p, row, numbers, h.maximize, is_native))
        asked = [shard.ask_moments() for shard in shards]
        sums = iter((yield [request for requests in asked for request in requests]))
        for shard, requests in zip(shards, asked, strict=True):
            shard.take_moments(list(islice(sums, len(requests))))
        totals = yield [shard.ask_size() for shard in shards]
        for shard, total in zip(shards, totals, strict=True):
            shard.move(total)

    def _run_native(self, group: Group, batch: Batch, h: SimpleNamespace) -> Batch:
        """Update the parameters that the kernel takes; returns a batch of the remaining ones."""
        kinds: dict[Any, list[int]] = {}
        fallback: list[int] = []
        reason: str | None = None
        rows = [self._row(batch, i) for i in range(len(batch.params))]
        for i, row in enumerate(rows):
            why = factored_cpu.unsupported_reason(row)
            if why is None:
                kinds.setdefault((row.p.dtype, row.g.dtype), []).append(i)
            else:
                fallback, reason = [*fallback, i], why
        if fallback and group["executor"] == "native":
            self.reject_native(reason)
        for members in kinds.values():
            numbers = self.numbers(h, rows[members[0]].r.dtype)
            why = factored_cpu.step([rows[i] for i in members], numbers | {"maximize": h.maximize})
            if why is not None:
                fallback, reason = fallback + members, why
        if fallback and group["executor"] == "native":
            self.reject_native(reason)
        self.log_executor(len(batch.params), len(fallback), reason)
        return batch.select(fallback)

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
    """The means of x² along a dimension, which stays with length 1; as the kernel stores them.

    The means of a float32 x may overflow. They are then the largest float32, because the ratios of
    infinite means would be lost. The means of an infinite x stay infinite.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=accumulation_dtype(x.device))
    mean = length * length / x.shape[dim]
    most = torch.finfo(x.dtype).max
    return torch.where(mean.isinf(), mean, mean.clamp(max=most)).to(x.dtype)


def mean_rows(r: Tensor, dim: int) -> Tensor:
    """The mean of row means along a dimension, which stays with length 1; summed as doubles."""
    return r.mean(dim, keepdim=True, dtype=accumulation_dtype(r.device)).to(r.dtype)
