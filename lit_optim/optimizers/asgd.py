"""Averaged stochastic gradient descent."""

from lit_optim.kernels.arithmetic import lerp
from lit_optim.optimizers.base import Elementwise, State, power
from lit_optim.optimizers.base.types import Group, NonNegative, Update, Value


class ASGD(Elementwise):
    """SGD that also keeps a running average of the weights.

    Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging, SIAM Journal on
    Control and Optimization 30(4); with the step sizes of Xu 2011, Towards Optimal One Pass Large
    Scale Learning with Averaged Stochastic Gradient Descent, arXiv:1107.2490, in torch's version.

        g = g + weight_decay p
        p = (1 - lambd eta) p - eta g
        ax = ax + mu (p - ax)
        eta = lr / (1 + lambd lr t)^alpha;   mu = 1 / max(1, t - t0)

    with eta = lr and mu = 1 in the first update. As in torch an update uses the eta of the previous
    one, so a new lr has an effect one update late.

    State: `ax`, the average of p since update t0 (before that p itself), of the parameter's shape,
    and the numbers `eta` and `mu`. The model is trained and evaluated with p; copy the average
    from the state to use it.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the initial step size, per unit of gradient.
        lambd: steps decay after about 1 / (lambd lr) updates; p shrinks by lambd eta in each.
        alpha: exponent of the decay of steps; 0.75 in the paper.
        t0: the update at which averaging starts; about half of the run.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
    """

    lr: NonNegative = 1e-2
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    weight_decay: NonNegative = 0.0

    lr_range = (1e-3, 1.0)
    coupled_weight_decay = True
    states = {"ax": State("weight-like")}

    def initial_scalars(self, group: Group) -> dict[str, float]:
        return {"eta": group["lr"], "mu": 1.0}

    def next_scalars(self, group: Group, t: int) -> dict[str, float]:
        lr = group["lr"]
        eta = lr / power(1 + group["lambd"] * lr * t, group["alpha"])
        return {"eta": eta, "mu": 1 / max(1, t - group["t0"])}

    def effective_lr(self, group: Group, t: int) -> float:
        return float(group["eta"])

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1 - group["lambd"] * group["eta"], group["eta"]

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        after = h.a * p - h.b * g
        return g, {"ax": lerp(s.ax, after, h.mu)}
