"""Adadelta."""

from lit_optim.kernels.arithmetic import average_squares, sqrt
from lit_optim.optimizers.base import Elementwise, State
from lit_optim.optimizers.base.types import NonNegative, Share, Update, Value


class Adadelta(Elementwise):
    """Steps scaled by the recent steps, divided by the recent gradients: there is no lr to tune.

    Zeiler 2012, ADADELTA: An Adaptive Learning Rate Method, arXiv:1212.5701, Alg. 1.

        g = g + weight_decay p
        v = rho v + (1 - rho) g²
        u = sqrt(d + eps) / sqrt(v + eps) g
        d = rho d + (1 - rho) u²;   p = p - lr u

    State: `square_avg` (v) and `acc_delta` (d), each of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: a factor on the step, which the paper does not have.
        rho: decay rate of both averages.
        eps: added to both averages; the first steps are about sqrt(eps / (1 - rho)), so a larger
            eps starts faster.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
    """

    lr: NonNegative = 1.0
    rho: Share = 0.9
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0

    lr_range = (1.0, 1e2)
    coupled_weight_decay = True
    states = {"square_avg": State("non-negative"), "acc_delta": State("non-negative")}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        v = average_squares(s.square_avg, g, h.rho)
        u = sqrt(s.acc_delta + h.eps) / sqrt(v + h.eps) * g
        d = average_squares(s.acc_delta, u, h.rho)
        return u, {"square_avg": v, "acc_delta": d}
