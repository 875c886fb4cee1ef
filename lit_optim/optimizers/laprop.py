"""LaProp."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class LaProp(Elementwise):
    """Adam in the other order: gradients are divided by their size first, and then averaged.

    Ziyin, Wang & Ueda 2020, LaProp: Separating Momentum and Adaptivity in Adam, arXiv:2002.04839,
    Alg. 1.

        v = b2 v + (1 - b2) g²
        m = b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps)
        u = m / (1 - b1^t)
        p = p - lr (u + weight_decay p)

    So no b1 is too large for a b2, and a step stays bounded whatever the two are.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: the authors' code averages lr times the gradient, so that a new lr acts slowly, and
    decays after the step; here lr acts at once, as in the paper, and the decay comes first.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages the directions over about 1 / (1 - b1) steps, b2 the squared gradient.
        eps: keeps the denominator from zero.
        weight_decay: decoupled: multiplied by lr, not seen by the averages.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 4e-4,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-15,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
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
        v = average_squares(s.exp_avg_sq, g, h.b2)
        m = lerp(s.exp_avg, g / (sqrt(v) / h.sqrt_debias2 + h.eps), 1 - h.b1)
        return m / h.debias1, {"exp_avg": m, "exp_avg_sq": v}
