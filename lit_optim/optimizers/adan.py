"""Adan."""

from math import sqrt as host_sqrt

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State
from lit_optim.optimizers.base.types import Group, NonNegative, Scalars, ThreeBetas, Update, Value


class Adan(Elementwise):
    """Adam with Nesterov momentum, computed from the change of the gradient.

    Xie et al. 2022, Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models,
    arXiv:2208.06677, Alg. 1.

        d = g - h;   h = g, and d = 0 at the first update
        m = b1 m + (1 - b1) g;   q = b2 q + (1 - b2) d;   v = b3 v + (1 - b3) (g + b2 d)²
        u = (m / (1 - b1^t) + b2 q / (1 - b2^t)) / (sqrt(v / (1 - b3^t)) + eps)
        p = (p - lr u) / (1 + lr weight_decay)

    State: `exp_avg` (m), `exp_avg_diff` (q), `exp_avg_sq` (v) and `last_grad` (h), each of the
    parameter's shape: twice Adam's.

    Differs: b is 1 - b in the paper; its Alg. 1 has no bias correction, but its authors' code has.
    Global gradient clipping is left to the trainer: trainer.gradient_clip_val.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate; the paper uses 5 to 10 times AdamW's.
        betas: decay rates of the averages of g, of its change d, and of (g + b2 d)².
        eps: added to the denominator for numerical stability.
        weight_decay: p is divided by 1 + lr weight_decay after the step.
        no_prox: let p shrink by lr weight_decay before the step instead, as in AdamW.
    """

    lr: NonNegative = 1e-3
    betas: ThreeBetas = (0.98, 0.92, 0.99)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    no_prox: bool = False

    lr_range = (1e-3, 1.0)
    states = {"exp_avg": State(), "exp_avg_diff": State(), "exp_avg_sq": State("non-negative")}
    states |= {"last_grad": State()}

    def effective_lr(self, group: Group, t: int) -> float:
        lr, wd = group["lr"], group["weight_decay"]
        # (p - lr u) / (1 + lr wd) is a step of this size with its decay: 1 - wd b = 1 / (1 + lr wd)
        return float(lr if group["no_prox"] else lr / (1 + lr * wd))

    def scalars(self, group: Group, t: int) -> Scalars:
        b1, b2, b3 = group["betas"]
        debias1, sqrt_debias3 = 1 - b1**t, host_sqrt(1 - b3**t)
        of_q, has_last = b2 / (1 - b2**t), float(t > 1)
        corrections = {"debias1": debias1, "sqrt_debias3": sqrt_debias3}
        return corrections | {"of_q": of_q, "has_last": has_last}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        d = h.has_last * (g - s.last_grad)
        m = lerp(s.exp_avg, g, 1 - h.b1)
        q = lerp(s.exp_avg_diff, d, 1 - h.b2)
        v = average_squares(s.exp_avg_sq, g + h.b2 * d, h.b3)
        u = (m / h.debias1 + h.of_q * q) / (sqrt(v) / h.sqrt_debias3 + h.eps)
        return u, {"exp_avg": m, "exp_avg_diff": q, "exp_avg_sq": v, "last_grad": g}
