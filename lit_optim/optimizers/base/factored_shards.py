"""The step of a factored second moment where a parameter is spread over processes.

What one process computes in three passes over a tensor is done here for the local shard, with two
messages in between: the sums that row and column means are made of, and then the size of the
direction. `Factored.numbers` has the formulas and the names of the scalars.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.arithmetic import lerp
from lit_optim.kernels.factored_cpu import Row
from lit_optim.kernels.factored_shard_cpu import ShardKernel
from lit_optim.kernels.precision import accumulation_dtype, clamp_to_dtype
from lit_optim.sharding import Sharding, Sums
from lit_optim.sharding.dimensions import sharding_of_dimensions

#: How many elements a CPU computes at a time.
BLOCK = 1 << 16


class FactoredShard:
    """The shard of one parameter, during a step.

    Args:
        p: the parameter, a DTensor.
        row: the tensors of its shard. The row means are [..., rows] or [..., rows, 1], and the
            column means [..., columns] or [..., 1, columns], of the local rows and columns.
        numbers: the scalars of the kernel.
        maximize: whether to ascend.
        is_native: whether compiled loops make the passes; torch otherwise.
    """

    def __init__(
        self, p: Tensor, row: Row, numbers: dict[str, Any], maximize: bool, is_native: bool
    ) -> None:
        self.p, self.row, self.maximize = p, row, maximize
        self.kernel = ShardKernel(row) if is_native else None
        self.n = SimpleNamespace(**numbers)
        self.dtype, self.double = row.r.dtype, accumulation_dtype(row.r.device)
        self.everywhere = Sharding.of(p) or Sharding(None, ())
        self.inverses: tuple[Tensor, ...] = ()

    def ask_moments(self) -> list[Sums]:
        """Request the sums of squares of p, of rows and columns of g, and of matrices."""
        rows, columns = self.p.ndim - 2, self.p.ndim - 1
        if self.kernel is not None:
            of_p, of_rows, of_columns = self.kernel.add_up()
            of_rows = of_rows.view(self.row.p.shape[:-1])
        else:
            of_p = self._square_norm(self.row.p).reshape(1)
            if self.row.c is None:
                return [Sums(of_p, self.everywhere)]
            of_rows = self._square_norm(self.row.g, -1)
            of_columns = self._square_norm(self.row.g, -2)
        mean_of_matrix = _store(of_rows / self.p.shape[-1], self.dtype).to(self.double).sum(-1)
        old_sum = self.row.r.reshape(of_rows.shape).sum(-1, dtype=self.double)
        along = {dim: sharding_of_dimensions(self.p, [dim]) for dim in (rows, columns)}
        both = sharding_of_dimensions(self.p, [rows, columns])
        return [
            Sums(of_p, self.everywhere),
            Sums(of_rows.flatten(), along[columns]),
            Sums(of_columns.flatten(), along[rows]),
            Sums(mean_of_matrix.flatten(), both),
            Sums(old_sum.flatten(), along[rows]),
        ]

    def take_moments(self, sums: list[Tensor]) -> None:
        """Update the second moment by the sums that were requested."""
        n, row = self.n, self.row
        self.size = (sums[0] / self.p.numel()).sqrt().squeeze()
        if row.c is None:
            g = row.g.to(self.dtype)
            row.r.mul_(1 - n.take).add_((n.take * g) * g + n.take * n.add)
            self.inverses = (row.r.rsqrt(),)
            return
        count, length = self.p.shape[-2:]
        batch = row.p.shape[:-2]
        for state, of_squares, over in ((row.r, sums[1], length), (row.c, sums[2], count)):
            new = _store(of_squares / over, self.dtype).reshape(state.shape) + n.add
            state.copy_(lerp(state, new, n.take))
        mean = lerp(sums[4] / count, sums[3] / count + n.add, n.take).to(self.dtype)
        mean = mean.clamp(min=clamp_to_dtype(n.least_mean, self.dtype)).reshape(*batch, 1)
        r, c = row.r.reshape(row.p.shape[:-1]), row.c.reshape(*batch, row.p.shape[-1])
        self.inverses = (r / mean).rsqrt().unsqueeze(-1), c.rsqrt().unsqueeze(-2)

    def ask_size(self) -> Sums:
        """Request the sum of squares of the direction."""
        if self.kernel is not None:
            return Sums(self.kernel.square_direction(self.inverses, self.n.most), self.everywhere)
        total = self.row.p.new_zeros(1, dtype=self.double)
        for block in self._blocks():
            total += self._square_norm(self._direction(block))
        return Sums(total, self.everywhere)

    def move(self, of_direction: Tensor) -> None:
        """Update the shard, given the sum of squares of the direction over all shards."""
        n, row = self.n, self.row
        over = (of_direction / self.p.numel()).sqrt().squeeze() / n.d
        down = torch.where(~(over <= 1.0) if n.spreads else over > 1.0, over, 1.0)
        scale = torch.where(self.size > n.least_size, self.size, n.least_size)
        b = n.b * scale if n.scaled else n.b
        step = (-b if self.maximize else b) / down
        if self.kernel is not None:
            shrink = float(b * n.weight_decay)
            self.kernel.move(self.inverses, [n.most, n.a, shrink, float(step), n.average])
        for block in self._blocks() if self.kernel is None else ():
            w = step * self._direction(block)
            if row.m is not None:
                w = row.m[block].copy_(lerp(row.m[block], w, n.average))
            p = row.p[block].to(self.dtype)
            row.p[block] = n.a * p - (b * n.weight_decay * p + w)
        if row.size is not None:
            row.size.copy_(self.size)

    def _direction(self, block: Any) -> Tensor:
        parts = [x[block] if len(x) == len(self.row.p) else x for x in self.inverses]
        most = clamp_to_dtype(self.n.most, self.dtype)
        inverse = math.prod(parts[1:], start=parts[0]).clamp(max=most)
        return self.row.g[block].to(self.dtype) * inverse

    def _blocks(self) -> list[Any]:
        """Parts of the shard, along its first dimension; temporaries of one stay in the cache."""
        p = self.row.p
        if p.ndim == 0 or not p.is_cpu:
            return [...]
        count = max(1, BLOCK * len(p) // max(1, p.numel()))
        return [slice(first, first + count) for first in range(0, len(p), count)]

    def _square_norm(self, x: Tensor, dim: int | None = None) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=dim, dtype=self.double)
        return length * length


def _store(mean: Tensor, dtype: torch.dtype) -> Tensor:
    """Means of squares as they are stored: at most the largest number, unless they are infinite."""
    return torch.where(mean.isinf(), mean, mean.clamp(max=torch.finfo(dtype).max)).to(dtype)
