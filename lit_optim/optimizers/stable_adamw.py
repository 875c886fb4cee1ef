"""StableAdamW."""

from math import inf

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, rms, sqrt
from lit_optim.optimizers.base import Elementwise, State, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class StableAdamW(Elementwise):
    """AdamW with smaller steps for tensors whose gradients suddenly grow.

    Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models,
    arXiv:2304.13013, Alg. 2: Adafactor's clipping of updates, on AdamW.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        r = sqrt(v / (1 - b2^t))
        size = lr / max(1, RMS(g / max(r, eps)))
        p = p - size (m / (1 - b1^t) / (r + eps) + weight_decay p)

    It replaces global gradient clipping: spikes are handled tensor by tensor.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the largest step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: keeps the denominators from zero.
        weight_decay: decoupled: p shrinks by size weight_decay in each update.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.99)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 1e-2

    requirements = ("dense", "whole")
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1.0, float(group["lr"])

    def scalars(self, group: Group, t: int) -> Scalars:
        return bias_corrections(group, t)

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        r = sqrt(v) / h.sqrt_debias2
        spike = rms(g / clip(r, h.eps, inf))
        u = m / h.debias1 / (r + h.eps) + h.weight_decay * p
        u = u / clip(spike, 1.0, inf)
        return u, {"exp_avg": m, "exp_avg_sq": v}
