"""AdamW as transformers had it."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class AdamWHF(Elementwise):
    """The AdamW of transformers until version 4: for results that were made with it.

    Loshchilov & Hutter 2017, Decoupled Weight Decay Regularization, arXiv:1711.05101; without bias
    correction: Devlin et al. 2018, BERT, arXiv:1810.04805, its code.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        c = sqrt(1 - b2^t) / (1 - b1^t) if correct_bias else 1
        p = p - lr c m / (sqrt(v) + eps)
        p = p - lr weight_decay p

    Two things differ from AdamW: eps stands outside of the bias correction, so it counts
    1 / sqrt(1 - b2^t) times more; and the decay comes after the update and shrinks it too.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: decoupled: multiplied by lr, not seen by the averages.
        correct_bias: make up for averages that start at 0; false, as for BERT, makes the first
            steps larger: sqrt(10) lr with the default betas.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-6,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        correct_bias: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            correct_bias=correct_bias,
            **options,
        )

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        shrink = 1 - group["lr"] * group["weight_decay"]
        return shrink, shrink * group["lr"]

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        correction = host_sqrt(1 - b2**t) / (1 - b1**t) if group["correct_bias"] else 1.0
        return {"b1": b1, "b2": b2, "eps": group["eps"], "correction": correction}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        return h.correction * m / (sqrt(v) + h.eps), {"exp_avg": m, "exp_avg_sq": v}
