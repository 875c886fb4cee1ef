"""NAdam."""

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class NAdam(Elementwise):
    """Adam with Nesterov momentum, whose weight is warmed up.

    Dozat 2016, Incorporating Nesterov Momentum into Adam, ICLR workshop.

        mu(t) = b1 (1 - 0.96^(t momentum_decay) / 2);   M = mu(1) mu(2) ... mu(t)
        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        n = (1 - mu(t)) / (1 - M) g + mu(t + 1) / (1 - M mu(t + 1)) m
        u = n / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr u

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape, and the number
    `mu_product` (M).

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        weight_decay: added to g as weight_decay p, like an L2 penalty, unless decoupled.
        momentum_decay: the speed of the warmup of mu from b1 / 2 to b1; half of it takes about
            17 / momentum_decay updates.
        decoupled_weight_decay: let p shrink by lr weight_decay instead, as in AdamW.
    """

    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 4e-3
    decoupled_weight_decay: bool = False

    coupled_weight_decay = True
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def initial_scalars(self, group: Group) -> dict[str, float]:
        return {"mu_product": 1.0}

    def next_scalars(self, group: Group, t: int) -> dict[str, float]:
        return {"mu_product": group["mu_product"] * _mu(group, t)}

    def scalars(self, group: Group, t: int) -> Scalars:
        mu, ahead = _mu(group, t), _mu(group, t + 1)
        product = group["mu_product"] * mu
        of_g = (1 - mu) / (1 - product)
        of_m = ahead / (1 - product * ahead)
        return bias_corrections(group, t) | {"of_g": of_g, "of_m": of_m}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        n = h.of_g * g + h.of_m * m
        u = n / (sqrt(v) / h.sqrt_debias2 + h.eps)
        return u, {"exp_avg": m, "exp_avg_sq": v}


def _mu(group: Group, t: int) -> float:
    return float(group["betas"][0] * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"])))
