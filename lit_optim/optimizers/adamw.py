"""AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any

from torch.optim.adam import adam
from torch.optim.adamw import adamw
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, maximum, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.optimizer import Batch
from lit_optim.optimizers.base.options import Options


class AdamW(Elementwise):
    """Each coordinate moves by about lr, its gradient divided by its own recent size.

    Loshchilov & Hutter 2017, Decoupled Weight Decay Regularization, arXiv:1711.05101, Alg. 2;
    Adam: Kingma & Ba 2014, arXiv:1412.6980; amsgrad: Reddi et al. 2018, arXiv:1904.09237.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape; with amsgrad also
    `max_exp_avg_sq`, the largest v so far, which then stands in the denominator.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero; larger is closer to SGD with momentum.
        weight_decay: decoupled: multiplied by lr, not seen by the averages.
        amsgrad: never let a step grow because v shrank.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            **options,
        )

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
        return states | ({"max_exp_avg_sq": State("non-negative")} if group["amsgrad"] else {})

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
            "amsgrad": group["amsgrad"],
        }

    def torchs(self, group: dict[str, Any], batch: Batch, t: int) -> bool:  # noqa: D102
        step = adam if self.couples(group) else adamw
        step(
            batch.params,
            batch.grads,
            batch.column("exp_avg"),
            batch.column("exp_avg_sq"),
            batch.column("max_exp_avg_sq") if group["amsgrad"] else [],
            batch.steps(t),
            fused=True,
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        return True

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        new = {"exp_avg": m, "exp_avg_sq": v}
        if h.amsgrad:
            v = new["max_exp_avg_sq"] = maximum(s.max_exp_avg_sq, v)
        return m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps), new
