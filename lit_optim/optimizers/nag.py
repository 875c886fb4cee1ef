"""Nesterov's accelerated gradient."""

from lit_optim.optimizers.base.types import NonNegative, Positive, Update, Value
from lit_optim.optimizers.sgd import HeavyBall


class NAG(HeavyBall):
    """Momentum that looks ahead: the gradient counts as if the step were already made.

    Nesterov 1983, A method of solving a convex programming problem with convergence rate O(1/k²),
    Soviet Mathematics Doklady 27; in the form of Sutskever et al. 2013, On the importance of
    initialization and momentum in deep learning. p is the point ahead, where g is computed.

        g = g + weight_decay p
        b = momentum b + g
        p = p - lr (g + momentum b)

    State: `momentum_buffer` (b), of the parameter's shape. The state dict is that of SGD with
    momentum and nesterov.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size per unit of gradient; it grows to lr / (1 - momentum) if the gradient
            stays the same.
        momentum: the share of the last direction that is kept.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
    """

    lr: NonNegative = 1e-3
    momentum: Positive = 0.9
    weight_decay: NonNegative = 0.0

    lr_range = (1e-3, 3e-1)
    fixed = {"dampening": 0.0, "nesterov": True}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        b = h.momentum * s.momentum_buffer + g
        u = g + h.momentum * b
        return u, {"momentum_buffer": b}
