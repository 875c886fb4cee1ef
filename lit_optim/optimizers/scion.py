"""Scion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import lerp
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.linalg import Coefficients, orthogonalized
from lit_optim.optimizers.base.matrixwise import MatrixOptions, Matrixwise
from lit_optim.optimizers.muon import scale


class Scion(Matrixwise):
    """A step as far as a ball in the spectral norm allows: conditional gradients.

    Pethick et al. 2025, Training Deep Learning Models with Norm-Constrained LMOs,
    arXiv:2502.07529, Alg. 1 and 2, with the spectral norm for hidden matrices.

        d = momentum d + (1 - momentum) g
        u = rho sqrt(m / n) NS(d)                       NS as in Muon
        p = p - lr (u + weight_decay p)

    With weight_decay 1 it is the paper's constrained form, p = (1 - lr) p - lr u, whose matrices
    stay within rho sqrt(m / n) in the spectral norm; with 0 the unconstrained. Differs: AdamW takes
    the parameters whose role is not hidden, for which the paper has balls in other norms; its
    alpha is 1 - momentum; a convolution is the matrix [out, in * height * width], where the paper
    has the factor sqrt(out / in) / (height * width).

    State: `momentum_buffer` (d), of the parameter's shape; AdamW's for the others.

    Args:
        params: param groups with a `role`, or matrices.
        lr: of matrices: the share of the way to the far side of the ball.
        momentum: how much of the average of gradients is kept.
        rho: the radius of the ball, in units of sqrt(m / n).
        weight_decay: of matrices; decoupled: 1 keeps them in the ball, 0 leaves it out.
        ns_coefficients: as in Muon.
        ns_steps: as in Muon.
        eps: keeps the norm before the iteration from zero.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-5, 1e-2)
    adamw_share: ClassVar[float] = 2.0

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 5e-4,
        momentum: Annotated[float, "in [0, 1)"] = 0.9,
        rho: Annotated[float, "> 0"] = 50.0,
        weight_decay: Annotated[float, ">= 0"] = 1.0,
        ns_coefficients: Coefficients | tuple[float, float, float] = "original",
        ns_steps: Annotated[int, "in [1, 99]"] | None = None,
        eps: Annotated[float, ">= 0"] = 1e-7,
        **options: Unpack[MatrixOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            rho=rho,
            weight_decay=weight_decay,
            ns_coefficients=ns_coefficients,
            ns_steps=ns_steps,
            eps=eps,
            **options,
        )

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        return {"momentum_buffer": torch.zeros_like(p, dtype=compute_dtype(p))}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "momentum": group["momentum"],
            "rho": group["rho"],
            "ns": (group["ns_coefficients"], group["ns_steps"], group["eps"]),
        }

    def direction(  # noqa: D102
        self, g: Tensor, p: Tensor, s: Any, h: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        d = lerp(s.momentum_buffer, g, 1 - h.momentum)
        u = h.rho * scale("spectral", *d.shape[-2:]) * orthogonalized(d, *h.ns)
        return u, {"momentum_buffer": d}
