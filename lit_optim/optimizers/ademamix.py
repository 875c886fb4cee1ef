"""AdEMAMix."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, log
from math import sqrt as host_sqrt
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class AdEMAMix(Elementwise):
    """AdamW with a second momentum, which remembers ten thousand updates.

    Pagliardini, Ablin & Grangier 2024, The AdEMAMix Optimizer: Better, Faster, Older,
    arXiv:2409.03137, Alg. 1.

        m1 = b1 m1 + (1 - b1) g;   m2 = b3(t) m2 + (1 - b3(t)) g;   v = b2 v + (1 - b2) g²
        u = (m1 / (1 - b1^t) + alpha(t) m2) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    alpha(t) = alpha min(1, t / T), and b3(t) goes from b1 to b3 in T updates so that its half-life
    grows evenly: with a = t / T, 1 / ln b3(t) = (1 - a) / ln b1 + a / ln b3. Without this warmup it
    diverges early.

    State: `exp_avg` (m1), `exp_avg_slow` (m2) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate is up to 1 + alpha times this.
        betas: b1 and b2 as in AdamW; b3 averages over about 1 / (1 - b3) updates.
        alpha: the weight of the slow momentum; 4 to 10 in long runs.
        t_alpha_beta3: T, in updates, best the length of the run; null: no warmup of the two.
        eps: keeps the denominator from zero.
        weight_decay: decoupled: multiplied by lr, not seen by the averages.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float, float], "in [0, 1)"] = (0.9, 0.999, 0.9999),
        alpha: Annotated[float, ">= 0"] = 2.0,
        t_alpha_beta3: Annotated[int, "> 0"] | None = None,
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            alpha=alpha,
            t_alpha_beta3=t_alpha_beta3,
            eps=eps,
            weight_decay=weight_decay,
            **options,
        )

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {
            "exp_avg": State(),
            "exp_avg_slow": State(),
            "exp_avg_sq": State("non-negative"),
        }

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2, _ = group["betas"]
        share = min(1.0, t / (group["t_alpha_beta3"] or 1))
        return {
            "b1": b1,
            "b2": b2,
            "b3": _between(b1, group["betas"][2], share),
            "alpha": group["alpha"] * share,
            "eps": group["eps"],
            "debias1": 1 - b1**t,
            "sqrt_debias2": host_sqrt(1 - b2**t),
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m1 = lerp(s.exp_avg, g, 1 - h.b1)
        m2 = lerp(s.exp_avg_slow, g, 1 - h.b3)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        u = (m1 / h.debias1 + h.alpha * m2) / (sqrt(v) / h.sqrt_debias2 + h.eps)
        return u, {"exp_avg": m1, "exp_avg_slow": m2, "exp_avg_sq": v}


def _between(b1: float, b3: float, share: float) -> float:
    """The beta whose half-life lies at `share` of the way from b1's to b3's."""
    if share >= 1:
        return b3
    if b1 == 0 or b3 == 0:  # no half-life to go from
        return b3 * share
    return exp(1 / ((1 - share) / log(b1) + share / log(b3)))
