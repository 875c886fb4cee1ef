"""AdamW."""

from torch.optim.adam import adam
from torch.optim.adamw import adamw

from lit_optim.kernels.arithmetic import average_squares, lerp, maximum, sqrt
from lit_optim.optimizers.base import Elementwise, State, TorchStep, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class AdamW(Elementwise):
    """Adam with decoupled weight decay: steps of about lr per coordinate.

    Loshchilov & Hutter 2017, Decoupled Weight Decay Regularization, arXiv:1711.05101, Alg. 2;
    Adam: Kingma & Ba 2014, arXiv:1412.6980; amsgrad: Reddi et al. 2018, arXiv:1904.09237.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape; with amsgrad also
    `max_exp_avg_sq`, the largest v so far, which then stands in the denominator.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability; a larger eps is closer to
            SGD with momentum.
        weight_decay: decoupled: p shrinks by lr weight_decay in each update.
        amsgrad: use the largest v so far, so that no step grows because v shrinks.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2
    amsgrad: bool = False

    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
    states |= {"max_exp_avg_sq": State("non-negative", when="amsgrad")}
    torch_step = TorchStep(adamw, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), coupled=adam)

    def scalars(self, group: Group, t: int) -> Scalars:
        return bias_corrections(group, t)

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        new = {"exp_avg": m, "exp_avg_sq": v}
        if h.amsgrad:
            v = new["max_exp_avg_sq"] = maximum(s.max_exp_avg_sq, v)
        return m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps), new
