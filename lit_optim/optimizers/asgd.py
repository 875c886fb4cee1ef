"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import lerp
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.optimizer import power
from lit_optim.optimizers.base.options import Options


class ASGD(Elementwise):
    """Gradient descent with slowly falling steps, and beside it the average of where it has been.

    Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging, SIAM Journal on
    Control and Optimization 30(4); with the step sizes of Xu 2011, Towards Optimal One Pass Large
    Scale Learning with Averaged Stochastic Gradient Descent, arXiv:1107.2490, as torch has them.

        g = g + weight_decay p
        p = (1 - lambd eta) p - eta g
        ax = ax + mu (p - ax)
        eta = lr / (1 + lambd lr t)^alpha;   mu = 1 / max(1, t - t0)

    at the first update with eta = lr and mu = 1. As in torch an update uses the eta that the update
    before has left, so a new lr acts one update late.

    State: `ax`, the average of p since update t0 (before that p itself), of the parameter's shape,
    and the numbers `eta` and `mu`. The model trains and evaluates p; who wants the average copies
    it from the state.

    Args:
        params: parameters, or param groups.
        lr: step per unit of gradient at the start.
        lambd: steps fall after about 1 / (lambd lr) updates; p shrinks by lambd eta in each.
        alpha: the power by which steps fall; the paper has 0.75.
        t0: updates before the average starts; about the first half of the run.
        weight_decay: coupled: an L2 penalty's gradient.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1.0)
    coupled_weight_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params, lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, **options
        )

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"ax": State("weight-like")}

    def carried(self, group: dict[str, Any]) -> dict[str, float]:  # noqa: D102
        return {"eta": group["lr"], "mu": 1.0}

    def carry(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, float]:
        lr = group["lr"]
        return {
            "eta": lr / power(1 + group["lambd"] * lr * t, group["alpha"]),
            "mu": 1 / max(1, t - group["t0"]),
        }

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        return carried["eta"]

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        return 1 - group["lambd"] * carried["eta"], carried["eta"]

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {"mu": carried["mu"]}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        after = h.a * p - h.b * g
        return g, {"ax": lerp(s.ax, after, h.mu)}
