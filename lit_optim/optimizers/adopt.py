"""ADOPT."""

from math import inf

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, sqrt
from lit_optim.optimizers.base import Elementwise, State, power
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class Adopt(Elementwise):
    """Adam that converges with any b2: g is divided by the average of earlier g² only.

    Taniguchi et al. 2024, ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate,
    arXiv:2411.02853, Alg. 2.

        at the first update v = g², and p does not change; then
        c = (t - 1)^clip_exp
        m = b1 m + (1 - b1) clip(g / max(sqrt(v), eps), -c, c)
        p = p - lr (m + weight_decay p)
        v = b2 v + (1 - b2) g²

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: the authors' code has coupled decay by default, timm and pytorch_optimizer likewise; at
    the first update that moves c is 1, as in the authors' code, and 2^0.25 in pytorch_optimizer.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of directions and of g².
        eps: the smallest denominator.
        clip_exp: exponent of the growing bound on normalized gradients; null: no bound, as in
            Alg. 1, where a coordinate whose first gradient is about 0 makes a huge step.
        weight_decay: decoupled: p shrinks by lr weight_decay in each update.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.9999)
    eps: NonNegative = 1e-6
    clip_exp: NonNegative | None = 0.25
    weight_decay: NonNegative = 0.0

    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def effective_lr(self, group: Group, t: int) -> float:
        return 0.0 if t == 1 else float(group["lr"])

    def scalars(self, group: Group, t: int) -> Scalars:
        (b1, b2), bounded = group["betas"], group["clip_exp"] is not None
        take1, keep2 = (0.0, 0.0) if t == 1 else (1 - b1, b2)
        bound = power(t - 1, group["clip_exp"]) if bounded else inf
        return {"take1": take1, "keep2": keep2, "bounded": bounded, "bound": bound}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        n = g / clip(sqrt(s.exp_avg_sq), h.eps, inf)
        n = clip(n, -h.bound, h.bound) if h.bounded else n
        m = lerp(s.exp_avg, n, h.take1)
        v = average_squares(s.exp_avg_sq, g, h.keep2)
        return m, {"exp_avg": m, "exp_avg_sq": v}
