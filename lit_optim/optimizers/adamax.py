"""Adamax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import absolute, lerp, maximum
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class Adamax(Elementwise):
    """Adam with the largest recent gradient in the denominator: no step exceeds about lr.

    Kingma & Ba 2014, Adam: A Method for Stochastic Optimization, arXiv:1412.6980, Alg. 2; eps is
    torch's.

        g = g + weight_decay p
        m = b1 m + (1 - b1) g;   v = max(b2 v, |g| + eps)
        p = p - lr / (1 - b1^t) m / v

    State: `exp_avg` (m) and `exp_inf` (v), each of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate, and about its bound.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps; a large gradient is
            remembered for about 1 / (1 - b2).
        eps: keeps the denominator from zero.
        weight_decay: coupled: an L2 penalty's gradient.
    """

    coupled_weight_decay = True

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1.0)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 2e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State(), "exp_inf": State("non-negative")}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        return {"b1": b1, "b2": b2, "eps": group["eps"], "debias1": 1 - b1**t}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = maximum(h.b2 * s.exp_inf, absolute(g) + h.eps)
        return m / h.debias1 / v, {"exp_avg": m, "exp_inf": v}
