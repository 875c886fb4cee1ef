"""SOAP."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.linalg import eigenbasis, follow_, refreshed, symmetric
from lit_optim.optimizers.base.matrixwise import MatrixOptions, Matrixwise, sides


class SOAP(Matrixwise):
    """Adam in the eigenbasis of Shampoo's factors, which is followed slowly.

    Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam, arXiv:2409.11321, Alg. 3.

        r = qlᵀ g qr
        m = b1 m + (1 - b1) r;   v = b2 v + (1 - b2) r²
        u = ql (m / (sqrt(v) + eps)) qrᵀ sqrt(1 - b2^k) / (1 - b1^k),   k = t - 1
        p = p - lr (u + weight_decay p)
        l = b2 l + (1 - b2) g gᵀ;   r likewise of gᵀ g
        every precondition_frequency updates: ql, qr = QR(l ql), QR(r qr); m, v move along

    As in the authors' code the first update only sets ql and qr, to the eigenvectors of l and r,
    and eps is not debiased. A convolution is the matrix [out, in * height * width]. A side longer
    than max_precondition_dim is left as it is. AdamW takes the parameters whose role is not hidden.

    Differs: from the authors' code, which decays after the step, p = (1 - lr weight_decay) (p -
    lr u), and turns m back and forth on every update, where here it is turned with the basis only.

    State: `exp_avg` (m) and `exp_avg_sq` (v), of the parameter's shape, in the eigenbasis; `left`
    (l), `left_basis` (ql), `right` (r) and `right_basis` (qr), square; AdamW's for the others.
    What l and r have above the diagonal is made good only when they are decomposed.

    Args:
        params: param groups with a `role`, or matrices.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its squares.
        eps: keeps the denominator from zero.
        weight_decay: of matrices; decoupled: multiplied by lr.
        precondition_frequency: updates from one change of basis to the next.
        max_precondition_dim: the longest side that has a basis.
    """

    lr_range: ClassVar[tuple[float, float]] = (3e-4, 3e-2)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 3e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.95, 0.95),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.01,
        precondition_frequency: Annotated[int, ">= 1"] = 10,
        max_precondition_dim: Annotated[int, ">= 1"] = 10_000,
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
            **options,
        )

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        state = {
            name: torch.zeros_like(p, dtype=compute_dtype(p)) for name in ("exp_avg", "exp_avg_sq")
        }
        for side, parts, size in sides(p, group):
            eye = torch.eye(size, dtype=compute_dtype(p), device=p.device).repeat(parts, 1, 1)
            state |= {side: torch.zeros_like(eye), f"{side}_basis": eye}
        return state

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        return float(group["lr"]) if t > 1 else 0.0

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        (b1, b2), k = group["betas"], t - 1
        return {
            "b1": b1,
            "b2": b2,
            "eps": group["eps"],
            "debias": host_sqrt(1 - b2**k) / (1 - b1**k) if k else 0.0,
            "first": k == 0,
            "turns": k > 0 and k % group["precondition_frequency"] == 0,
        }

    def direction(  # noqa: D102
        self, g: Tensor, p: Tensor, s: Any, h: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        new: dict[str, Tensor] = {}
        m, v, u = s.exp_avg, s.exp_avg_sq, torch.zeros_like(g)
        if not h.first:
            r = turned(g, s)
            m, v = lerp(m, r, 1 - h.b1), average_squares(v, r, h.b2)
            u = h.debias * turned_back(m / (sqrt(v) + h.eps), s)
        for side, x in (("left", g), ("right", g.mT)):
            if hasattr(s, side):
                new[side] = follow_(getattr(s, side), x, 1 - h.b2)
        if h.first or h.turns:
            m = turned_back(m, s)
            for side, dim in (("left", -2), ("right", -1)):
                if hasattr(s, side):
                    basis = getattr(s, f"{side}_basis")
                    found, order = (eigenbasis if h.first else refreshed)(
                        symmetric(new[side]), basis
                    )
                    found, ok = self.unless_failed("an eigenbasis", found, basis)
                    new[f"{side}_basis"] = found
                    order = torch.where(ok[:, None], order, torch.arange(order.shape[-1]).to(order))
                    v = v.gather(dim, order.unsqueeze(-1 if dim == -2 else -2).expand_as(v))
                    setattr(s, f"{side}_basis", found)
            m = turned(m, s)
        return u, new | {"exp_avg": m, "exp_avg_sq": v}


def turned(x: Tensor, s: Any) -> Tensor:
    """Qlᵀ x qr: x in the eigenbasis; a side without a basis stays."""
    x = s.left_basis.mT @ x if hasattr(s, "left") else x
    return x @ s.right_basis if hasattr(s, "right") else x


def turned_back(x: Tensor, s: Any) -> Tensor:
    """Ql x qrᵀ: the inverse of `turned`."""
    x = s.left_basis @ x if hasattr(s, "left") else x
    return x @ s.right_basis.mT if hasattr(s, "right") else x
