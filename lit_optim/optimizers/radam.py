"""RAdam."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class RAdam(Elementwise):
    """Adam that starts as momentum and trusts its denominator more as it averages more: no warmup.

    Liu et al. 2019, On the Variance of the Adaptive Learning Rate and Beyond, arXiv:1908.03265,
    Alg. 2; with the threshold of its authors' code and of torch, 5, where the paper has 4.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        R = 2 / (1 - b2) - 1;   n = R - 2 t b2^t / (1 - b2^t)
        r = sqrt((n - 4) (n - 2) R / ((R - 4) (R - 2) n))
        u = m / (1 - b1^t) * (r sqrt(1 - b2^t) / (sqrt(v) + eps) if n > 5 else 1)
        p = p - lr u

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate; in the first updates (5 with b2 = 0.999) it is the
            step per unit of gradient.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: an L2 penalty's gradient, unless decoupled.
        decoupled_weight_decay: shrink the parameter by lr weight_decay instead, as AdamW does.
    """

    coupled_weight_decay = True

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1.0)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        debias2 = 1 - b2**t
        longest = 2 / (1 - b2) - 1
        n = longest - 2 * t * b2**t / debias2
        rect = 0.0
        if n > 5:
            r = (n - 4) * (n - 2) * longest / ((longest - 4) * (longest - 2) * n)
            rect = host_sqrt(r * debias2)
        return {
            "b1": b1,
            "b2": b2,
            "eps": group["eps"],
            "debias1": 1 - b1**t,
            "rect": rect,  # one of the two is 0: a rule does not branch on a number
            "plain": 0.0 if rect else 1.0,
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        u = m / h.debias1 * (h.rect / (sqrt(v) + h.eps) + h.plain)
        return u, {"exp_avg": m, "exp_avg_sq": v}
