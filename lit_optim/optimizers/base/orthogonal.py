"""The base of algorithms that move matrices by orthogonal ones."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.layout import Layout
from lit_optim.optimizers.base.matrix_step import move
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.newton_schulz import (
    dtype_of_products,
    is_alone,
    orthogonalize,
    orthogonalize_alone_,
    orthogonalize_flops,
)
from lit_optim.optimizers.base.options import has_plain_update
from lit_optim.optimizers.base.pieces import copy_in_pieces, divide_rows
from lit_optim.optimizers.base.products import prefers_bfloat16
from lit_optim.optimizers.base.types import Group, Update, Value
from lit_optim.sharding import Steps

#: The dtype of products of float32 matrices; auto: the faster on this machine.
ProductDtype = Literal["auto", "float32", "bfloat16"]


class Orthogonal(Matrixwise):
    """An optimizer whose direction is the orthogonalized momentum.

    A subclass declares `ns_coefficients`, `ns_steps`, `eps` and `ns_dtype`, and writes `scale`. The
    first step writes what the dtype "auto" is into the param group, so that a resumed run goes on
    in the same.

    On a CPU what is computed for each element of a large matrix is computed in pieces, before and
    after the products, with the same results as `direction` has.
    """

    def scale(self, o: Tensor, s: Any, h: Any) -> tuple[float | Tensor, dict[str, Tensor]]:
        """By what orthogonal matrices are multiplied, and the new states.

        Args:
            o: the matrices, [batch, m, n], maybe in the dtype of the products.
            s: the states that are not in `prepared`.
            h: the scalars.

        Returns:
            a number, or one for each row, [batch, m, 1].
        """
        raise NotImplementedError

    def direction(self, x: Value, s: Value, h: Value) -> Update:
        o = orthogonalize(x, h.ns_coefficients, h.ns_steps, h.eps, h.ns_dtype)
        scale, new = self.scale(o, s, h)
        return o.mul_(scale), new

    def update(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> None:
        layout, others = Layout.of(group), []
        is_plain = has_plain_update(h) and not layout.transposed
        for i, (p, g, state) in enumerate(
            zip(batch.params, batch.grads, batch.states, strict=True)
        ):
            self.reject_sparse(g)
            tensors = p, g, *(state[name] for name in self.prepared)
            is_flat = is_plain and all(x.is_contiguous() for x in tensors)
            if is_flat and is_alone(*layout.shape(p), p.device):
                self._update_alone(p, g, state, h, layout)
            else:
                others.append(i)
        if others:
            super().update(group, batch.select(others), h, t)

    def _update_alone(
        self, p: Tensor, g: Tensor, state: dict[str, Any], h: SimpleNamespace, layout: Layout
    ) -> None:
        """Update the matrices of a parameter, one after another."""
        dtype, prepared = compute_dtype(p), {name: state[name] for name in self.prepared}
        columns = [layout.to_matrices(x) for x in (p, g, *prepared.values())]
        kept = self._states_of_matrices(state)
        for k, (values, grads, *states) in enumerate(zip(*columns, strict=True)):
            part = Batch([values], [grads], [dict(zip(prepared, states, strict=True))])

            def prepare(rows: slice, part: Batch = part) -> Tensor:
                return self._prepare(part.rows(rows), h)[2][0].to(dtype)

            to = dtype_of_products(dtype, h.ns_dtype)
            x, norm = copy_in_pieces(prepare, values.shape, to)
            x = orthogonalize_alone_(x, norm, h.ns_coefficients, h.ns_steps, h.eps)
            own = {name: value[k : k + 1] for name, value in kept.items()}
            scale, new = self.scale(x[None], SimpleNamespace(**own), h)
            for name, value in new.items():
                own[name].copy_(value)
            for rows in divide_rows(*values.shape):
                piece, factor = values[rows], scale[0, rows] if torch.is_tensor(scale) else scale
                value = piece.to(dtype)
                move(piece, value, value, x[rows].to(dtype).mul_(factor), h)

    def begin_step(self, group: Group) -> Iterator[Steps]:
        if group["ns_dtype"] == "auto":
            groups = (group, *self.param_groups)  # the group may be a copy
            # a process that has a part of the parameters may have none of this group
            p = next((p for own in groups for p in own["params"]), None)
            dtype = "auto" if p is None else _faster_dtype(p.device.type)
            for own in groups:
                if own.get("ns_dtype") == "auto":
                    own["ns_dtype"] = dtype
        return super().begin_step(group)

    def flops(self, m: int, n: int, group: Group) -> float:
        return orthogonalize_flops(m, n, group["ns_coefficients"], group["ns_steps"])


def _faster_dtype(device: str) -> str:
    return "bfloat16" if prefers_bfloat16(device) else "float32"
