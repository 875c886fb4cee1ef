"""AdEMAMix."""

from math import exp, log

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State, Update, Value, bias_corrections
from lit_optim.optimizers.base.types import Count, Group, NonNegative, Scalars, ThreeBetas


class AdEMAMix(Elementwise):
    """AdamW with a second momentum, whose average spans ten thousand updates.

    Pagliardini, Ablin & Grangier 2024, The AdEMAMix Optimizer: Better, Faster, Older,
    arXiv:2409.03137, Alg. 1.

        m1 = b1 m1 + (1 - b1) g;   m2 = b3(t) m2 + (1 - b3(t)) g;   v = b2 v + (1 - b2) g²
        u = (m1 / (1 - b1^t) + alpha(t) m2) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    alpha(t) = alpha min(1, t / T), and b3(t) goes from b1 to b3 in T updates so that its half-life
    grows evenly: with a = t / T, 1 / ln b3(t) = (1 - a) / ln b1 + a / ln b3. Without this warmup it
    diverges early.

    State: `exp_avg` (m1), `exp_avg_slow` (m2) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate is up to 1 + alpha times this.
        betas: decay rates of the fast average of g, of that of g², and of the slow one of g.
        alpha: the weight of the slow momentum; 4 to 10 in long runs.
        t_alpha_beta3: T, the updates of the warmup of alpha and b3, ideally those of the run; null:
            no warmup.
        eps: added to the denominator for numerical stability.
        weight_decay: decoupled: p shrinks by lr weight_decay in each update.
    """

    lr: NonNegative = 1e-3
    betas: ThreeBetas = (0.9, 0.999, 0.9999)
    alpha: NonNegative = 2.0
    t_alpha_beta3: Count | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2

    states = {"exp_avg": State(), "exp_avg_slow": State(), "exp_avg_sq": State("non-negative")}

    def scalars(self, group: Group, t: int) -> Scalars:
        b1, _, b3 = group["betas"]
        share = min(1.0, t / (group["t_alpha_beta3"] or 1))
        warmed = {"b3": _interpolate(b1, b3, share), "alpha": group["alpha"] * share}
        return bias_corrections(group, t) | warmed

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m1 = lerp(s.exp_avg, g, 1 - h.b1)
        m2 = lerp(s.exp_avg_slow, g, 1 - h.b3)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        u = (m1 / h.debias1 + h.alpha * m2) / (sqrt(v) / h.sqrt_debias2 + h.eps)
        return u, {"exp_avg": m1, "exp_avg_slow": m2, "exp_avg_sq": v}


def _interpolate(b1: float, b3: float, share: float) -> float:
    """The beta whose half-life is at `share` of the way from b1's to b3's."""
    if share >= 1:
        return b3
    if b1 == 0 or b3 == 0:  # they have no half-life
        return b3 * share
    return exp(1 / ((1 - share) / log(b1) + share / log(b3)))
