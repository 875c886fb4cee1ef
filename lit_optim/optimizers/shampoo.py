"""Shampoo."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.linalg import follow_, frobenius, inverse_root, symmetric
from lit_optim.optimizers.base.matrixwise import MatrixOptions, Matrixwise, sides


class Shampoo(Matrixwise):
    """A matrix is whitened from both sides, and moves as far as Adam would have moved it.

    Gupta et al. 2018, Shampoo: Preconditioned Stochastic Tensor Optimization, arXiv:1802.09568,
    Alg. 1; averages, debiasing and grafting to Adam: Shi et al. 2023, A Distributed Data-Parallel
    PyTorch Implementation of the Distributed Shampoo Optimizer, arXiv:2309.06497, Alg. 2.

        m = b1 m + (1 - b1) g;     v = b2 v + (1 - b2) g²
        l = b2 l + (1 - b2) g gᵀ;  r = b2 r + (1 - b2) gᵀ g
        every precondition_frequency updates: wl = (l / (1 - b2^t) + matrix_eps)^(-1/4); wr likewise
        d = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        u = wl m wr |d| / |wl m wr|,   or d until wl and wr are first known
        p = p - lr (u + weight_decay p)

    A convolution is the matrix [out, in * height * width]. Of a matrix with a side longer than
    max_precondition_dim only the other is whitened, by the power -1/2. AdamW takes the parameters
    whose role is not hidden.

    State: `exp_avg` (m) and `exp_avg_sq` (v), of the parameter's shape; `left` (l), `left_root`
    (wl), `right` (r) and `right_root` (wr), square; AdamW's for the others. Above the diagonal l
    and r are made good only when they are decomposed.

    Args:
        params: param groups with a `role`, or matrices.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its squares.
        eps: keeps Adam's denominator from zero.
        weight_decay: of matrices; decoupled: multiplied by lr.
        precondition_frequency: updates from one computation of the roots to the next.
        max_precondition_dim: the longest side that is whitened.
        matrix_eps: added to the eigenvalues of l and r.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.95, 0.95),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.01,
        precondition_frequency: Annotated[int, ">= 1"] = 10,
        max_precondition_dim: Annotated[int, ">= 1"] = 4096,
        matrix_eps: Annotated[float, "> 0"] = 1e-12,
        **options: Unpack[MatrixOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            precondition_frequency=precondition_frequency,
            max_precondition_dim=max_precondition_dim,
            matrix_eps=matrix_eps,
            **options,
        )

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        state = {
            name: torch.zeros_like(p, dtype=compute_dtype(p)) for name in ("exp_avg", "exp_avg_sq")
        }
        for side, parts, size in sides(p, group):
            factor = p.new_zeros((parts, size, size), dtype=compute_dtype(p))
            state |= {side: factor, f"{side}_root": torch.zeros_like(factor)}
        return state

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        every = group["precondition_frequency"]
        return {
            "b1": b1,
            "b2": b2,
            "eps": group["eps"],
            "matrix_eps": group["matrix_eps"],
            "debias1": 1 - b1**t,
            "debias2": 1 - b2**t,
            "sqrt_debias2": host_sqrt(1 - b2**t),
            "whitens": t >= every,
            "renews": t % every == 0,
        }

    def direction(  # noqa: D102
        self, g: Tensor, p: Tensor, s: Any, h: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m, v = lerp(s.exp_avg, g, 1 - h.b1), average_squares(s.exp_avg_sq, g, h.b2)
        new = {"exp_avg": m, "exp_avg_sq": v}
        d, whitened = m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps), m
        there = [side for side in ("left", "right") if hasattr(s, side)]
        for side in there:
            factor = new[side] = follow_(getattr(s, side), g if side == "left" else g.mT, 1 - h.b2)
            root = getattr(s, f"{side}_root")
            if h.renews:
                found = inverse_root(symmetric(factor) / h.debias2, 2 * len(there), h.matrix_eps)
                root = new[f"{side}_root"] = self.unless_failed("a root", found, root)[0]
            whitened = root @ whitened if side == "left" else whitened @ root
        if not there or not h.whitens:
            return d, new
        norm = frobenius(whitened)
        # where no root could be found yet it is 0, and Adam's direction stands
        u = torch.where(norm > 0, whitened * (frobenius(d) / norm), d)
        return u, new
