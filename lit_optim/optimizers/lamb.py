"""LAMB."""

from lit_optim.kernels.arithmetic import average_squares, lerp, norm, sqrt, where
from lit_optim.optimizers.base import Elementwise, State, bias_corrections
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class Lamb(Elementwise):
    """AdamW for large batches: each tensor moves by lr times its own norm.

    You et al. 2019, Large Batch Optimization for Deep Learning: Training BERT in 76 minutes,
    arXiv:1904.00962, Alg. 2, with the norm itself as its φ.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p
        p = p - lr |p| / |u| u

    where |p| / |u| is 1 if either is 0. AdamW with trust_ratio=true computes the same, and can be
    combined with the other options of a step.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: many implementations clip the global norm of the gradients to 1; here the trainer does:
    trainer.gradient_clip_val=1. timm scales only tensors that have a weight decay.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the norm of a step, relative to the norm of the tensor.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        weight_decay: a part of the direction u, which is then scaled as a whole.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 1e-2

    lr_range = (3e-4, 3e-1)
    requirements = ("dense", "whole")
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1.0, float(group["lr"])

    def scalars(self, group: Group, t: int) -> Scalars:
        return bias_corrections(group, t)

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, g, h.b2)
        u = m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps) + h.weight_decay * p
        of_p, of_u = norm(p), norm(u)
        ratio = where(of_p * of_u > 0, of_p / of_u, 1.0)
        return ratio * u, {"exp_avg": m, "exp_avg_sq": v}
