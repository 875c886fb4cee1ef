"""NorMuon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import lerp, square
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.linalg import Coefficients, frobenius, orthogonalized
from lit_optim.optimizers.base.matrixwise import MatrixOptions, Matrixwise
from lit_optim.optimizers.muon import AdjustLr, scale

#: Keeps norms from zero; the authors' constant.
TINY = 1e-10


class NorMuon(Matrixwise):
    """Muon whose rows are then divided by their own recent size, so that neurons move alike.

    Li et al. 2025, NorMuon: Making Muon more efficient and scalable, arXiv:2510.05491; as in the
    authors' code, which keeps the norm of the step.

        b = momentum b + (1 - momentum) g
        o = NS(momentum b + (1 - momentum) g)          as in Muon, or NS(b) without nesterov
        v = beta2 v + (1 - beta2) mean of o² over each row
        u = o / (sqrt(v) + 1e-10);   u = s u |o| / (|u| + 1e-10)
        p = p - lr (u + weight_decay p)

    where s of a matrix [m, n] is Muon's. AdamW takes the parameters whose role is not hidden.

    Differs: from the authors' code for convolutions, whose rows are there those of each kernel;
    here a convolution is the matrix [out, in * height * width].

    State: `momentum_buffer` (b), of the parameter's shape, and `row_var` (v), [matrices, m, 1];
    AdamW's for the others.

    Args:
        params: param groups with a `role`, or matrices.
        lr: of matrices: the size of a step in the spectral norm.
        momentum: how much of the average of gradients is kept.
        beta2: memory of the size of a row, over about 1 / (1 - beta2) steps.
        nesterov: look ahead along the momentum.
        weight_decay: of matrices; decoupled: multiplied by lr.
        ns_coefficients: as in Muon.
        ns_steps: as in Muon.
        eps: keeps the norm before the iteration from zero.
        adjust_lr_fn: the factor s.
    """

    lr_range: ClassVar[tuple[float, float]] = (3e-3, 1.0)
    adamw_share: ClassVar[float] = 0.1

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 0.02,
        momentum: Annotated[float, "in [0, 1)"] = 0.95,
        beta2: Annotated[float, "in [0, 1)"] = 0.95,
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
            beta2=beta2,
            nesterov=nesterov,
            weight_decay=weight_decay,
            ns_coefficients=ns_coefficients,
            ns_steps=ns_steps,
            eps=eps,
            adjust_lr_fn=adjust_lr_fn,
            **options,
        )

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        split = group.get("split", 1)
        rows = p.new_zeros((split, p.shape[0] // split, 1), dtype=compute_dtype(p))
        return {"momentum_buffer": torch.zeros_like(p, dtype=compute_dtype(p)), "row_var": rows}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "momentum": group["momentum"],
            "beta2": group["beta2"],
            "nesterov": group["nesterov"],
            "ns": (group["ns_coefficients"], group["ns_steps"], group["eps"]),
            "adjust": group["adjust_lr_fn"],
        }

    def direction(  # noqa: D102
        self, g: Tensor, p: Tensor, s: Any, h: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        b = lerp(s.momentum_buffer, g, 1 - h.momentum)
        o = orthogonalized(lerp(b, g, 1 - h.momentum) if h.nesterov else b, *h.ns)
        v = lerp(s.row_var, square(o).mean(-1, keepdim=True), 1 - h.beta2)
        u = o / (v.sqrt() + TINY)
        kept = frobenius(o)
        u = u * kept / (frobenius(u) + TINY)
        return scale(h.adjust, *u.shape[-2:]) * u, {"momentum_buffer": b, "row_var": v}
