"""MARS."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, norm, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.optimizer import peak_lr
from lit_optim.optimizers.base.options import Options
from lit_optim.requirements import Need


class Mars(Elementwise):
    """AdamW on gradients of less variance: what changed since the last update counts for more.

    Yuan et al. 2024, MARS: Unleashing the Power of Variance Reduction for Training Large Models,
    arXiv:2411.10438, MARS-AdamW with the gradient of the last update for that of its
    parameters on this batch (MARS-approx), so that one backward pass is enough.

        c = g + gamma b1 / (1 - b1) (g - h);   h = g
        c = c / max(1, |c|)
        m = b1 m + (1 - b1) c;   v = b2 v + (1 - b2) c²
        u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    for matrices and what has more dimensions. Vectors and scalars, as norms and biases, go with
    AdamW on g itself, at an lr, betas and a weight decay of their own.

    State: `exp_avg` (m), `exp_avg_sq` (v) and, with c, `last_grad` (h), each of the parameter's
    shape.

    Differs: h is 0 before the first update, as in the authors' code; timm has c = g there.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages c over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: decoupled: multiplied by lr, not seen by the averages.
        gamma: how much of the change counts; 0 leaves AdamW on clipped gradients.
        optimize_1d: treat vectors and scalars as matrices.
        lr_1d: of vectors and scalars before any schedule, which moves it together with lr.
        betas_1d: of vectors and scalars.
        weight_decay_1d: of vectors and scalars, for which a group's weight_decay does not count,
            were it 0; a group may set this as well.
    """

    needs: ClassVar[tuple[Need, ...]] = ("dense", "whole")
    lr_range: ClassVar[tuple[float, float]] = (3e-4, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 3e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.95, 0.99),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        gamma: Annotated[float, ">= 0"] = 0.025,
        optimize_1d: bool = False,
        lr_1d: Annotated[float, ">= 0"] = 3e-3,
        betas_1d: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.95),
        weight_decay_1d: Annotated[float, ">= 0"] = 0.1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            gamma=gamma,
            optimize_1d=optimize_1d,
            lr_1d=lr_1d,
            betas_1d=betas_1d,
            weight_decay_1d=weight_decay_1d,
            **options,
        )

    def for_vectors(self, group: dict[str, Any]) -> dict[str, Any]:  # noqa: D102
        if group["optimize_1d"]:
            return group
        peak = peak_lr(group)
        return group | {
            "lr": group["lr_1d"] * group["lr"] / peak if peak else 0.0,
            "initial_lr": group["lr_1d"],
            "betas": group["betas_1d"],
            "weight_decay": group["weight_decay_1d"],
            "plain": True,
        }

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
        return states if "plain" in group else states | {"last_grad": State()}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        return {
            "b1": b1,
            "b2": b2,
            "eps": group["eps"],
            "of_change": group["gamma"] * b1 / (1 - b1),
            "plain": "plain" in group,
            "debias1": 1 - b1**t,
            "sqrt_debias2": host_sqrt(1 - b2**t),
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        c, new = g, {}
        if not h.plain:
            c = g + h.of_change * (g - s.last_grad)
            c = c / clip(norm(c), 1.0, float("inf"))
            new["last_grad"] = g
        m = lerp(s.exp_avg, c, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, c, h.b2)
        u = m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps)
        return u, {"exp_avg": m, "exp_avg_sq": v, **new}
