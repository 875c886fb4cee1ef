"""RAdam."""

from math import sqrt as host_sqrt

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class RAdam(Elementwise):
    """Adam that starts as momentum and adapts once its average is reliable: no warmup needed.

    Liu et al. 2019, On the Variance of the Adaptive Learning Rate and Beyond, arXiv:1908.03265,
    Alg. 2; with the threshold 5 of the authors' code and of torch; the paper has 4.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        R = 2 / (1 - b2) - 1;   n = R - 2 t b2^t / (1 - b2^t)
        r = sqrt((n - 4) (n - 2) R / ((R - 4) (R - 2) n))
        u = m / (1 - b1^t) * (r sqrt(1 - b2^t) / (sqrt(v) + eps) if n > 5 else 1)
        p = p - lr u

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate; in the first updates (5 with b2 = 0.999), the step
            size per unit of gradient.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        weight_decay: added to g as weight_decay p, like an L2 penalty, unless decoupled.
        decoupled_weight_decay: let p shrink by lr weight_decay instead, as in AdamW.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False

    lr_range = (1e-3, 1.0)
    coupled_weight_decay = True
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def scalars(self, group: Group, t: int) -> Scalars:
        b1, b2 = group["betas"]
        debias2 = 1 - b2**t
        longest = 2 / (1 - b2) - 1
        n = longest - 2 * t * b2**t / debias2
        rect = 0.0
        if n > 5:
            r = (n - 4) * (n - 2) * longest / ((longest - 4) * (longest - 2) * n)
            rect = host_sqrt(r * debias2)
        plain = 0.0 if rect else 1.0  # a rule cannot branch on a number, so one of the two is 0
        return {"debias1": 1 - b1**t, "rect": rect, "plain": plain}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        u = m / h.debias1 * (h.rect / (sqrt(v) + h.eps) + h.plain)
        return u, {"exp_avg": m, "exp_avg_sq": v}
