"""LAMB."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, norm, sqrt, where
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options
from lit_optim.requirements import Need


class Lamb(Elementwise):
    """AdamW for large batches: each tensor moves by lr times its own norm.

    You et al. 2019, Large Batch Optimization for Deep Learning: Training BERT in 76 minutes,
    arXiv:1904.00962, Alg. 2, with the norm itself as its φ.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p
        p = p - lr |p| / |u| u

    where |p| / |u| is 1 if either is 0. AdamW with trust_ratio=true is the same, and takes the
    other options of a step as well.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: many implementations clip the gradients' global norm to 1 within; here that is the
    trainer's: trainer.gradient_clip_val=1. timm scales only tensors that have a weight decay.

    Args:
        params: parameters, or param groups.
        lr: the size of a step as a share of the tensor.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: a share of the direction, so it acts only against the rest of it.
    """

    needs: ClassVar[tuple[Need, ...]] = ("dense", "whole")
    lr_range: ClassVar[tuple[float, float]] = (3e-4, 3e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-6,
        weight_decay: Annotated[float, ">= 0"] = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        return 1.0, float(group["lr"])

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        return {
            "b1": b1,
            "b2": b2,
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "debias1": 1 - b1**t,
            "sqrt_debias2": host_sqrt(1 - b2**t),
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        u = m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps) + h.weight_decay * p
        of_p, of_u = norm(p), norm(u)
        ratio = where(of_p * of_u > 0, of_p / of_u, 1.0)
        return ratio * u, {"exp_avg": m, "exp_avg_sq": v}
