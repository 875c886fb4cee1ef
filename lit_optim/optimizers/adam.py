"""Adam."""

from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.types import NonNegative


class Adam(AdamW):
    """Momentum divided by the root of the average squared gradient: steps of about lr.

    Kingma & Ba 2014, Adam: A Method for Stochastic Optimization, arXiv:1412.6980, Alg. 1.

        g = g + weight_decay p;   u as in AdamW;   p = p - lr u

    The decay passes through the averages and the division, so it hardly regularizes coordinates
    with large gradients; AdamW fixes this.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
        amsgrad: use the largest v so far, so that no step grows because v shrinks.
        decoupled_weight_decay: let p shrink by lr weight_decay instead, which is AdamW.
    """

    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False

    coupled_weight_decay = True
