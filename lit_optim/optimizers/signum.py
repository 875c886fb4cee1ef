"""Signum."""

from lit_optim.kernels.arithmetic import lerp, sign
from lit_optim.optimizers.base import Elementwise, State, require
from lit_optim.optimizers.base.types import Beta, Group, NonNegative, Scalars, Update, Value


class Signum(Elementwise):
    """The sign of the momentum: every coordinate moves by exactly lr.

    Bernstein et al. 2018, signSGD: Compressed Optimisation for Non-Convex Problems,
    arXiv:1802.04434, Alg. 1 (signSGD: momentum 0) and 2.

        m = momentum m + (1 - momentum) g
        u = sign(momentum m + (1 - momentum) g) if nesterov else sign(m)
        p = p - lr (u + weight_decay p)

    State: `momentum_buffer` (m), of the parameter's shape, if momentum > 0.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of every coordinate; 3 to 10 times smaller than AdamW's.
        momentum: decay rate of the average of gradients.
        nesterov: average the gradient in once more; needs momentum > 0.
        weight_decay: decoupled: p shrinks by lr weight_decay, so 3 to 10 times larger than AdamW's.

    Raises:
        ValueError: nesterov without momentum.
    """

    lr: NonNegative = 1e-4
    momentum: Beta = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    lr_range = (1e-5, 1e-2)

    states = {"momentum_buffer": State(when="momentum")}

    def check_arguments(self, values: Scalars) -> None:
        is_valid = values["momentum"] > 0 or not values["nesterov"]
        require(is_valid, "nesterov must go with momentum > 0")

    def scalars(self, group: Group, t: int) -> Scalars:
        return {"keeps_momentum": group["momentum"] > 0}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        if not h.keeps_momentum:
            return sign(g), {}
        m = lerp(s.momentum_buffer, g, 1 - h.momentum)
        u = sign(lerp(m, g, 1 - h.momentum) if h.nesterov else m)
        return u, {"momentum_buffer": m}
