"""AdamW with Nesterov momentum."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class NAdamW(Elementwise):
    """AdamW whose momentum already counts the gradient that the next update would add.

    Dahl et al. 2023, Benchmarking Neural Network Training Algorithms, arXiv:2306.07179, its
    baseline; after Dozat 2016, Incorporating Nesterov Momentum into Adam, ICLR workshop.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        n = b1 m + (1 - b1) g
        u = n / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: from `nadam`, which is Dozat's own and warms up its momentum, by a constant b1.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: decoupled: multiplied by lr, not seen by the averages.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

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
            "debias1": 1 - b1**t,
            "sqrt_debias2": host_sqrt(1 - b2**t),
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        ahead = lerp(m, g, 1 - h.b1)
        u = ahead / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps)
        return u, {"exp_avg": m, "exp_avg_sq": v}
