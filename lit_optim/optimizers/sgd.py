"""Stochastic gradient descent."""

from torch.optim.sgd import sgd

from lit_optim.optimizers.base import Elementwise, State, TorchStep, require
from lit_optim.optimizers.base.types import Group, NonNegative, Scalars, Update, Value


class HeavyBall(Elementwise):
    """The rule that SGD, Momentum and NAG share."""

    coupled_weight_decay = True
    requirements = ()
    takes_sparse = True
    states = {"momentum_buffer": State(when="momentum")}
    torch_step = TorchStep(sgd, ("momentum_buffer",), creates_states=True)

    def scalars(self, group: Group, t: int) -> Scalars:
        take = 1.0 if t == 1 else 1 - group["dampening"]  # all of the first gradient
        return {"take": take, "keeps_momentum": group["momentum"] > 0}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        if not h.keeps_momentum:
            return g, {}
        b = h.momentum * s.momentum_buffer + h.take * g
        u = g + h.momentum * b if h.nesterov else b
        return u, {"momentum_buffer": b}


class SGD(HeavyBall):
    """Step by lr times the gradient, or times a running sum of gradients.

    Robbins & Monro 1951; heavy ball: Polyak 1964; nesterov: Nesterov 1983, in the form of
    Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.

        g = g + weight_decay p
        b = g at the first update, then momentum b + (1 - dampening) g
        u = g + momentum b if nesterov else b;   p = p - lr u

    State: `momentum_buffer` (b), of the parameter's shape, if momentum > 0.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size per unit of gradient; with momentum steps grow to lr / (1 - momentum).
        momentum: the share of the last direction that is kept.
        dampening: the share of the new gradient that is left out of the buffer.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening 0.

    Raises:
        ValueError: nesterov without momentum, or with dampening.
    """

    lr: NonNegative = 1e-3
    momentum: NonNegative = 0.0
    dampening: float = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False

    lr_range = (1e-3, 1.0)

    def check_arguments(self, values: Scalars) -> None:
        sums = values["momentum"] > 0 and values["dampening"] == 0
        is_valid = sums or not values["nesterov"]
        require(is_valid, "nesterov must go with momentum > 0 and dampening 0")
