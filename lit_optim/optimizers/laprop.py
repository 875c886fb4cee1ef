"""LaProp."""

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class LaProp(Elementwise):
    """Adam in the other order: gradients are normalized first, and then averaged.

    Ziyin, Wang & Ueda 2020, LaProp: Separating Momentum and Adaptivity in Adam, arXiv:2002.04839,
    Alg. 1.

        v = b2 v + (1 - b2) g²
        m = b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps)
        u = m / (1 - b1^t)
        p = p - lr (u + weight_decay p)

    Steps are bounded for any b1 and b2, so b1 cannot be too large for b2.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: the authors' code averages lr times the gradient, so that a new lr takes effect slowly,
    and decays after the step; here lr takes effect at once, as in the paper, and the decay comes
    first.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of directions and of g².
        eps: added to the denominator for numerical stability.
        weight_decay: decoupled: p shrinks by lr weight_decay in each update.
    """

    lr: NonNegative = 4e-4
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-15
    weight_decay: NonNegative = 0.0

    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def scalars(self, group: Group, t: int) -> Scalars:
        return bias_corrections(group, t)

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        v = average_squares(s.exp_avg_sq, g, h.b2)
        n = g / (sqrt(v) / h.sqrt_debias2 + h.eps)
        m = lerp(s.exp_avg, n, 1 - h.b1)
        u = m / h.debias1
        return u, {"exp_avg": m, "exp_avg_sq": v}
