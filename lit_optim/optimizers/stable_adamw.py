"""StableAdamW."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, rms, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options
from lit_optim.requirements import Need


class StableAdamW(Elementwise):
    """AdamW that steps less where a tensor's gradients are larger than they used to be.

    Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models,
    arXiv:2304.13013, Alg. 2: Adafactor's clipping of updates, on AdamW.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        r = sqrt(v / (1 - b2^t))
        size = lr / max(1, RMS(g / max(r, eps)))
        p = p - size (m / (1 - b1^t) / (r + eps) + weight_decay p)

    It stands in for a global clip of gradients: a spike is met tensor by tensor.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate, at most.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominators from zero.
        weight_decay: decoupled: multiplied by the size of the step, not seen by the averages.
    """

    needs: ClassVar[tuple[Need, ...]] = ("dense", "whole")
    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.99),
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
        r = sqrt(v) / h.sqrt_debias2
        spike = rms(g / clip(r, h.eps, float("inf")))
        u = m / h.debias1 / (r + h.eps) + h.weight_decay * p
        return u / clip(spike, 1.0, float("inf")), {"exp_avg": m, "exp_avg_sq": v}
