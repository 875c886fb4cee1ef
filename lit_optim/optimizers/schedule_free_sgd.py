"""Schedule-free stochastic gradient descent."""

from lit_optim.optimizers.base import ScheduleFree, State, Update, Value
from lit_optim.optimizers.base.types import Group, NonNegative, OpenBeta, Updates


class ScheduleFreeSGD(ScheduleFree):
    """SGD at a constant lr whose weights are averaged: no schedule, no fixed end.

    Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682, Sec. 2.

        size = lr min(1, t / warmup_steps)
        z = z - size (g + weight_decay y)
        c = w / (sum of w so far), with w = t^r (largest size so far)^weight_lr_power
        x = (1 - c) x + c z;   y = (1 - momentum) z + momentum x

    In training the parameters hold y, where g is computed; `eval()` swaps x in, `train()` swaps y
    back in, and a step in eval mode is an error. In 16 bits each swap rounds once more.

    State: `z`, of the parameter's shape, and the numbers `weight_sum` and `lr_max`; x is computed
    from y and z. Group: `train_mode`.

    Differs: from the paper, like the authors' package: w uses the largest size, not the last. From
    the package: a parameter that gets its first gradient late counts its own updates.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of z per unit of gradient; 10 to 50 times that of SGD with momentum.
        momentum: the share of x in y, constant.
        weight_decay: coupled: added to g as weight_decay y, like an L2 penalty.
        warmup_steps: the updates of linear warmup of the size to lr.
        r: exponent of t in the weights of x; above 0, later updates weigh more.
        weight_lr_power: exponent of the size in the weights of x.
    """

    lr: NonNegative = 1.0
    momentum: OpenBeta = 0.9
    weight_decay: NonNegative = 0.0
    warmup_steps: Updates = 0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0

    coupled_weight_decay = True
    requirements = ("dense", "train_eval", "steady_lr")
    lr_range = (3e-2, 3e1)
    states = {"z": State("weight-like", None)}

    def beta(self, group: Group) -> float:
        return float(group["momentum"])

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        return self.average(g, p, s, h)
