"""Adamax."""

from lit_optim.kernels.arithmetic import absolute, lerp, maximum
from lit_optim.optimizers.base import Elementwise, State, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class Adamax(Elementwise):
    """Adam with the largest recent gradient in the denominator: no step exceeds about lr.

    Kingma & Ba 2014, Adam: A Method for Stochastic Optimization, arXiv:1412.6980, Alg. 2; eps is
    torch's.

        g = g + weight_decay p
        m = b1 m + (1 - b1) g;   v = max(b2 v, |g| + eps)
        p = p - lr / (1 - b1^t) m / v

    State: `exp_avg` (m) and `exp_inf` (v), each of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate, and about its upper bound.
        betas: decay rates of the average of g and of the largest |g|.
        eps: added to the denominator for numerical stability.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
    """

    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0

    lr_range = (1e-3, 1.0)
    coupled_weight_decay = True
    states = {"exp_avg": State(), "exp_inf": State("non-negative")}

    def scalars(self, group: Group, t: int) -> Scalars:
        return bias_corrections(group, t)

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = maximum(h.b2 * s.exp_inf, absolute(g) + h.eps)
        u = m / h.debias1 / v
        return u, {"exp_avg": m, "exp_inf": v}
