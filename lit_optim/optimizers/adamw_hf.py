"""AdamW as transformers had it."""

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class AdamWHF(Elementwise):
    """AdamW of transformers until version 4, to reproduce results made with it.

    Loshchilov & Hutter 2017, Decoupled Weight Decay Regularization, arXiv:1711.05101; without bias
    correction: Devlin et al. 2018, BERT, arXiv:1810.04805, its code.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        c = sqrt(1 - b2^t) / (1 - b1^t) if correct_bias else 1
        p = p - lr c m / (sqrt(v) + eps)
        p = p - lr weight_decay p

    Two things differ from AdamW: eps is outside of the bias correction, so it weighs
    1 / sqrt(1 - b2^t) times more; and the decay comes after the update, and shrinks it too.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        weight_decay: decoupled: p shrinks by lr weight_decay in each update.
        correct_bias: correct the averages for their start at 0; without, as for BERT, the first
            steps are larger: sqrt(10) lr with the default betas.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0
    correct_bias: bool = True

    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        shrink = 1 - group["lr"] * group["weight_decay"]
        return shrink, shrink * group["lr"]

    def scalars(self, group: Group, t: int) -> Scalars:
        of_t = bias_corrections(group, t)
        correction = of_t["sqrt_debias2"] / of_t["debias1"] if group["correct_bias"] else 1.0
        return {"correction": correction}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        u = h.correction * m / (sqrt(v) + h.eps)
        return u, {"exp_avg": m, "exp_avg_sq": v}
