"""Lion."""

from lit_optim.kernels.arithmetic import lerp, sign
from lit_optim.optimizers.base import Elementwise, State
from lit_optim.optimizers.base.types import Betas, NonNegative, Update, Value


class Lion(Elementwise):
    """The sign of an interpolated momentum: every coordinate moves by exactly lr.

    Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, Alg. 2.

        u = sign(b1 m + (1 - b1) g);   m = b2 m + (1 - b2) g
        p = p - lr (u + weight_decay p)

    State: `exp_avg` (m), of the parameter's shape: half of Adam's.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of every coordinate; 3 to 10 times smaller than AdamW's.
        betas: b1 is the share of momentum in the step, b2 the decay rate of the momentum.
        weight_decay: decoupled: p shrinks by lr weight_decay, so 3 to 10 times larger than AdamW's.
    """

    lr: NonNegative = 1e-4
    betas: Betas = (0.9, 0.99)
    weight_decay: NonNegative = 0.0

    lr_range = (1e-5, 1e-2)
    states = {"exp_avg": State()}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        u = sign(lerp(s.exp_avg, g, 1 - h.b1))
        m = lerp(s.exp_avg, g, 1 - h.b2)
        return u, {"exp_avg": m}
