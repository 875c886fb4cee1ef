"""Adan."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class Adan(Elementwise):
    """Adam with Nesterov momentum, made from the gradient's change since the last update.

    Xie et al. 2022, Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models,
    arXiv:2208.06677, Alg. 1.

        d = g - h;   h = g, and d = 0 at the first update
        m = b1 m + (1 - b1) g;   q = b2 q + (1 - b2) d;   v = b3 v + (1 - b3) (g + b2 d)²
        u = (m / (1 - b1^t) + b2 q / (1 - b2^t)) / (sqrt(v / (1 - b3^t)) + eps)
        p = (p - lr u) / (1 + lr weight_decay)

    State: `exp_avg` (m), `exp_avg_diff` (q), `exp_avg_sq` (v) and `last_grad` (h), each of the
    parameter's shape: twice Adam's.

    Differs: the paper calls 1 - b what is b here; its Alg. 1 has no bias correction, which its
    authors' code has. A global clip of gradients is the trainer's: trainer.gradient_clip_val.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate; the paper takes 5 to 10 times AdamW's.
        betas: memory of the gradient, of its change, and of their squared sum.
        eps: keeps the denominator from zero.
        weight_decay: the parameter is divided by 1 + lr weight_decay after the step.
        no_prox: shrink the parameter by lr weight_decay before the step instead, as AdamW does.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1.0)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float, float], "in [0, 1)"] = (0.98, 0.92, 0.99),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        no_prox: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            no_prox=no_prox,
            **options,
        )

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        lr, wd = group["lr"], group["weight_decay"]
        # (p - lr u) / (1 + lr wd) is a step of this size with its decay: 1 - wd b = 1 / (1 + lr wd)
        return float(lr if group["no_prox"] else lr / (1 + lr * wd))

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {
            "exp_avg": State(),
            "exp_avg_diff": State(),
            "exp_avg_sq": State("non-negative"),
            "last_grad": State(),
        }

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2, b3 = group["betas"]
        return {
            "b1": b1,
            "b2": b2,
            "b3": b3,
            "eps": group["eps"],
            "has_last": 0.0 if t == 1 else 1.0,
            "debias1": 1 - b1**t,
            "of_q": b2 / (1 - b2**t),
            "sqrt_debias3": host_sqrt(1 - b3**t),
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        d = h.has_last * (g - s.last_grad)
        m = lerp(s.exp_avg, g, 1 - h.b1)
        q = lerp(s.exp_avg_diff, d, 1 - h.b2)
        v = average_squares(s.exp_avg_sq, g + h.b2 * d, h.b3)
        u = (m / h.debias1 + h.of_q * q) / (sqrt(v) / h.sqrt_debias3 + h.eps)
        return u, {"exp_avg": m, "exp_avg_diff": q, "exp_avg_sq": v, "last_grad": g}
