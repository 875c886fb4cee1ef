"""NAdam."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class NAdam(Elementwise):
    """Adam that looks ahead along its momentum, which it warms up.

    Dozat 2016, Incorporating Nesterov Momentum into Adam, ICLR workshop.

        mu(t) = b1 (1 - 0.96^(t momentum_decay) / 2);   M = mu(1) mu(2) ... mu(t)
        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        n = (1 - mu(t)) / (1 - M) g + mu(t + 1) / (1 - M mu(t + 1)) m
        u = n / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr u

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape, and the number
    `mu_product` (M).

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: an L2 penalty's gradient, unless decoupled.
        momentum_decay: how fast mu warms up from b1 / 2 to b1; half of the way takes about
            17 / momentum_decay updates.
        decoupled_weight_decay: shrink the parameter by lr weight_decay instead, as AdamW does.
    """

    coupled_weight_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 2e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        momentum_decay: Annotated[float, ">= 0"] = 4e-3,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def carried(self, group: dict[str, Any]) -> dict[str, float]:  # noqa: D102
        return {"mu_product": 1.0}

    def carry(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, float]:
        return {"mu_product": carried["mu_product"] * _mu(group, t)}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        mu, ahead = _mu(group, t), _mu(group, t + 1)
        product = carried["mu_product"] * mu
        return {
            "b1": b1,
            "b2": b2,
            "eps": group["eps"],
            "of_g": (1 - mu) / (1 - product),
            "of_m": ahead / (1 - product * ahead),
            "sqrt_debias2": host_sqrt(1 - b2**t),
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        n = h.of_g * g + h.of_m * m
        return n / (sqrt(v) / h.sqrt_debias2 + h.eps), {"exp_avg": m, "exp_avg_sq": v}


def _mu(group: dict[str, Any], t: int) -> float:
    return float(group["betas"][0] * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"])))
