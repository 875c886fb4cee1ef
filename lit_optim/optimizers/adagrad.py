"""Adagrad."""

from torch.optim.adagrad import adagrad

from lit_optim.kernels.arithmetic import sqrt, square
from lit_optim.optimizers.base import Elementwise, State, TorchStep
from lit_optim.optimizers.base.types import Group, NonNegative, Update, Value


class Adagrad(Elementwise):
    """The gradient divided by the root of the sum of all squared gradients, for sparse features.

    Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization, JMLR 12, Fig. 1.

        g = g + weight_decay p
        G = G + g²;   p = p - lr / (1 + (t - 1) lr_decay) * g / (sqrt(G) + eps)

    State: `sum` (G), of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the first step size of each coordinate; later ones shrink as 1 / sqrt(t).
        lr_decay: a further decay with the step count.
        weight_decay: coupled: added to g as weight_decay p, like an L2 penalty.
        initial_accumulator_value: the initial G; a larger one makes the first steps smaller.
        eps: added to the denominator for numerical stability.
    """

    lr: NonNegative = 1e-2
    lr_decay: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: NonNegative = 1e-10

    lr_range = (1e-3, 3e-1)
    coupled_weight_decay = True
    requirements = ()
    takes_sparse = ignores_zeros = saves_unstepped = True
    states = {"sum": State("non-negative", initial_from="initial_accumulator_value")}
    torch_step = TorchStep(adagrad, ("sum",), devices=("cpu",))

    def effective_lr(self, group: Group, t: int) -> float:
        return float(group["lr"] / (1 + (t - 1) * group["lr_decay"]))

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        total = s.sum + square(g)
        return g / (sqrt(total) + h.eps), {"sum": total}
