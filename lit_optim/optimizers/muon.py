"""Muon."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import lerp
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.linalg import Coefficients, orthogonalized
from lit_optim.optimizers.base.matrixwise import MatrixOptions, Matrixwise

#: How a step of an orthogonal matrix [m, n] is made fit for its shape.
AdjustLr = Literal["original", "match_rms_adamw", "spectral"]


class Muon(Matrixwise):
    """Every matrix moves by a momentum whose singular values are made about equal.

    Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks,
    kellerjordan.github.io/posts/muon; match_rms_adamw: Liu et al. 2025, Muon is Scalable for LLM
    Training, arXiv:2502.16982.

        b = momentum b + (1 - momentum) g
        u = momentum b + (1 - momentum) g if nesterov else b
        u = s NS(u / |u|);   NS, ns_steps times: A = u uᵀ;   u = c1 u + (c2 A + c3 A A) u
        p = p - lr (u + weight_decay p)

    where s of a matrix [m, n] is sqrt(max(1, m / n)) ("original"), 0.2 sqrt(max(m, n))
    ("match_rms_adamw") or sqrt(m / n) ("spectral"). A convolution is [out, in * height * width].
    AdamW takes the parameters whose role is not hidden.

    Differs: from torch's Muon, which orthogonalises in bfloat16 everywhere: float64 stays, and so
    does float32 where products of that are faster; from the authors' code for convolutions, whose s
    there is 1.

    State: `momentum_buffer` (b), of the parameter's shape; AdamW's for the others.

    Args:
        params: param groups with a `role`, or matrices.
        lr: of matrices: the size of a step in the spectral norm ("original", "spectral"), or about
            that of AdamW ("match_rms_adamw", which wants a lower lr, about 1e-3).
        momentum: how much of the average of gradients is kept.
        nesterov: look ahead along the momentum.
        weight_decay: of matrices; decoupled: multiplied by lr.
        ns_coefficients: c1, c2 and c3 of the iteration, or the name of a known series of them:
            original, the steepest; quintic; polar_express; precise, for singular values of 1.
        ns_steps: iterations; null: as many as the series has, and 5 of one triple.
        eps: keeps the norm from zero.
        adjust_lr_fn: the factor s.
    """

    lr_range: ClassVar[tuple[float, float]] = (3e-3, 1.0)
    adamw_share: ClassVar[float] = 0.1

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 0.02,
        momentum: Annotated[float, "in [0, 1)"] = 0.95,
        nesterov: bool = True,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        ns_coefficients: Coefficients | tuple[float, float, float] = "original",
        ns_steps: Annotated[int, "in [1, 99]"] | None = None,
        eps: Annotated[float, ">= 0"] = 1e-7,
        adjust_lr_fn: AdjustLr = "original",
        **options: Unpack[MatrixOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            ns_coefficients=ns_coefficients,
            ns_steps=ns_steps,
            eps=eps,
            adjust_lr_fn=adjust_lr_fn,
            **options,
        )

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        return {"momentum_buffer": torch.zeros_like(p, dtype=compute_dtype(p))}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "momentum": group["momentum"],
            "nesterov": group["nesterov"],
            "ns": (group["ns_coefficients"], group["ns_steps"], group["eps"]),
            "adjust": group["adjust_lr_fn"],
        }

    def direction(  # noqa: D102
        self, g: Tensor, p: Tensor, s: Any, h: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        b = lerp(s.momentum_buffer, g, 1 - h.momentum)
        u = lerp(b, g, 1 - h.momentum) if h.nesterov else b
        return scale(h.adjust, *u.shape[-2:]) * orthogonalized(u, *h.ns), {"momentum_buffer": b}


def scale(adjust: AdjustLr, m: int, n: int) -> float:
    """The factor s for a matrix of m rows and n columns."""
    match adjust:
        case "original":
            return host_sqrt(max(1.0, m / n))
        case "match_rms_adamw":
            return 0.2 * host_sqrt(max(m, n))
        case _:
            return host_sqrt(m / n)
