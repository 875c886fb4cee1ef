"""Schedule-free AdamW."""

from lit_optim.kernels.arithmetic import average_squares, sqrt
from lit_optim.optimizers.base import ScheduleFree, State, Update, Value, bias_corrections
from lit_optim.optimizers.base.types import Group, NonNegative, OpenBetas, Scalars, Updates


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW at a constant lr whose weights are averaged: no schedule, no fixed end.

    Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682, Alg. 1.

        size = lr min(1, t / warmup_steps)
        v = b2 v + (1 - b2) g²
        d = g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay y
        z = z - size d
        c = w / (sum of w so far), with w = t^r (largest size so far)^weight_lr_power
        x = (1 - c) x + c z;   y = (1 - b1) z + b1 x

    In training the parameters hold y, where g is computed; `eval()` swaps x in, `train()` swaps y
    back in, and a step in eval mode is an error. In 16 bits each swap rounds once more.

    State: `z` and `exp_avg_sq` (v), each of the parameter's shape, and the numbers `weight_sum` and
    `lr_max`; x is computed from y and z. Group: `train_mode`.

    Differs: from the paper, like the authors' package: v is bias-corrected by itself, and w uses
    the largest size, not the last. From the package: a parameter that gets its first gradient late
    counts its own updates.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of z; 1 to 10 times the lr of AdamW with a schedule.
        betas: b1 is the share of x in y, constant, up to 0.98 in very long runs; b2 the decay rate
            of the average of g².
        eps: added to the denominator for numerical stability.
        weight_decay: decoupled: z moves by lr weight_decay y.
        warmup_steps: the updates of linear warmup of the size to lr.
        r: exponent of t in the weights of x; above 0, later updates weigh more.
        weight_lr_power: exponent of the size in the weights of x.
    """

    lr: NonNegative = 2.5e-3
    betas: OpenBetas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    warmup_steps: Updates = 0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0

    requirements = ("dense", "train_eval", "steady_lr")
    lr_range = (3e-4, 3e-1)
    states = {"z": State("weight-like", None), "exp_avg_sq": State("non-negative")}

    def beta(self, group: Group) -> float:
        return float(group["betas"][0])

    def scalars(self, group: Group, t: int) -> Scalars:
        return super().scalars(group, t) | bias_corrections(group, t)

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        v = average_squares(s.exp_avg_sq, g, h.b2)
        d = g / (sqrt(v) / h.sqrt_debias2 + h.eps) + h.weight_decay * p
        u, new = self.average(d, p, s, h)
        return u, {"exp_avg_sq": v, **new}
