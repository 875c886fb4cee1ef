"""Gradient descent with momentum."""

from lit_optim.optimizers.base.types import NonNegative, Update, Value
from lit_optim.optimizers.sgd import HeavyBall


class Momentum(HeavyBall):
    """A heavy ball: a decaying sum of past gradients is the direction.

    Polyak 1964, Some methods of speeding up the convergence of iteration methods, USSR
    Computational Mathematics and Mathematical Physics 4(5).

        g = g + weight_decay p
        b = g at the first update, then momentum b + (1 - dampening) g
        p = p - lr b

    State: `momentum_buffer` (b), of the parameter's shape, if momentum > 0. The state dict is that
    of SGD with momentum.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size per unit of gradient; it grows to lr / (1 - momentum) if the gradient
            stays the same.
        momentum: the share of the last direction that is kept.
        dampening: the share of the new gradient that is left out of the buffer; with dampening =
            momentum the buffer is an average, and steps do not grow.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
    """

    lr: NonNegative = 1e-3
    momentum: NonNegative = 0.9
    dampening: float = 0.0
    weight_decay: NonNegative = 0.0

    lr_range = (1e-3, 3e-1)
    fixed = {"nesterov": False}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        if not h.keeps_momentum:
            return g, {}
        b = h.momentum * s.momentum_buffer + h.take * g
        return b, {"momentum_buffer": b}
