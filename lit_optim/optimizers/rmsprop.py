"""RMSprop."""

from math import inf

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, sqrt, square, where
from lit_optim.optimizers.base import Elementwise, State
from lit_optim.optimizers.base.types import Group, NonNegative, Scalars, Update, Value


class RMSprop(Elementwise):
    """Each gradient is divided by the root of the average of its squares.

    Tieleman & Hinton 2012, Neural Networks for Machine Learning, lecture 6.5; centered: Graves
    2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850.

        g = g + weight_decay p
        v = alpha v + (1 - alpha) g²
        s = sqrt(v - a²) if centered, with a = alpha a + (1 - alpha) g, else sqrt(v)
        b = momentum b + g / (s + eps);   p = p - lr b

    Differs: a variance v - a² that is negative through rounding counts as 0, and that of a v that
    has overflowed is infinite; in torch both are NaN.

    State: `square_avg` (v), of the parameter's shape; if centered also `grad_avg` (a), with
    momentum > 0 also `momentum_buffer` (b).

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate; the first step is 1 / sqrt(1 - alpha) times larger,
            because v starts at 0 and is not corrected.
        alpha: decay rate of the averages of g² and g.
        eps: added to the denominator for numerical stability.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
        momentum: the share of the last step that is kept; steps grow to lr / (1 - momentum).
        centered: divide by the standard deviation of the gradient instead of its size.
    """

    lr: NonNegative = 1e-2
    alpha: NonNegative = 0.99
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.0
    centered: bool = False

    lr_range = (1e-4, 3e-2)
    coupled_weight_decay = True
    states = {"square_avg": State("non-negative"), "momentum_buffer": State(when="momentum")}
    states |= {"grad_avg": State(when="centered")}

    def scalars(self, group: Group, t: int) -> Scalars:
        return {"keeps_momentum": group["momentum"] > 0}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        v = average_squares(s.square_avg, g, h.alpha)
        new = {"square_avg": v}
        if h.centered:
            mean = new["grad_avg"] = lerp(s.grad_avg, g, 1 - h.alpha)
            variance = clip(v - square(mean), 0.0, inf)
            v = where(v < inf, variance, v)  # without a difference of infinities
        u = g / (sqrt(v) + h.eps)
        if h.keeps_momentum:
            u = new["momentum_buffer"] = h.momentum * s.momentum_buffer + u
        return u, new
