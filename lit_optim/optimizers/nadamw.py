"""AdamW with Nesterov momentum."""

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class NAdamW(Elementwise):
    """AdamW with Nesterov momentum.

    Dahl et al. 2023, Benchmarking Neural Network Training Algorithms, arXiv:2306.07179, its
    baseline; after Dozat 2016, Incorporating Nesterov Momentum into Adam, ICLR workshop.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        n = b1 m + (1 - b1) g
        u = n / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: b1 is constant; `nadam`, Dozat's own, warms up its momentum.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        weight_decay: decoupled: p shrinks by lr weight_decay in each update.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2

    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def scalars(self, group: Group, t: int) -> Scalars:
        return bias_corrections(group, t)

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        n = lerp(m, g, 1 - h.b1)
        u = n / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps)
        return u, {"exp_avg": m, "exp_avg_sq": v}
