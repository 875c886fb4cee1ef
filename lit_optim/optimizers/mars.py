"""MARS."""

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, norm, sqrt
from lit_optim.optimizers.base import Elementwise, State, bias_corrections, peak_lr
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Scalars, Update, Value


class Mars(Elementwise):
    """AdamW on variance-reduced gradients: the change since the last update is scaled up.

    Yuan et al. 2024, MARS: Unleashing the Power of Variance Reduction for Training Large Models,
    arXiv:2411.10438, MARS-AdamW with the gradient of the last update in place of that of
    its parameters on this batch (MARS-approx), so that one backward pass is enough.

        c = g + gamma b1 / (1 - b1) (g - h);   h = g
        c = c / max(1, |c|)
        m = b1 m + (1 - b1) c;   v = b2 v + (1 - b2) c²
        u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        p = p - lr (u + weight_decay p)

    for tensors of two or more dimensions. AdamW on g updates vectors and scalars, such as norms and
    biases, with an lr, betas and a weight decay of their own.

    State: `exp_avg` (m), `exp_avg_sq` (v) and, with c, `last_grad` (h), each of the parameter's
    shape.

    Differs: h is 0 before the first update, as in the authors' code; in timm c = g there.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of c and c².
        eps: added to the denominator for numerical stability.
        weight_decay: decoupled: p shrinks by lr weight_decay in each update.
        gamma: the weight of the change; with 0 this is AdamW on clipped gradients.
        optimize_1d: treat vectors and scalars like matrices.
        lr_1d: the lr of vectors and scalars; a schedule changes it together with lr.
        betas_1d: the betas of vectors and scalars.
        weight_decay_1d: the weight decay of vectors and scalars, which ignore weight_decay, even
            if it is 0; a group may set it.
    """

    lr: NonNegative = 3e-3
    betas: Betas = (0.95, 0.99)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    gamma: NonNegative = 0.025
    optimize_1d: bool = False
    lr_1d: NonNegative = 3e-3
    betas_1d: Betas = (0.9, 0.95)
    weight_decay_1d: NonNegative = 0.1

    lr_range = (3e-4, 1e-1)
    requirements = ("dense", "whole")

    def states_for(self, group: Group) -> dict[str, State]:
        states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
        return states if "plain" in group else states | {"last_grad": State()}

    def vector_hyperparameters(self, group: Group) -> Group:
        if group["optimize_1d"]:
            return group
        peak, betas = peak_lr(group), group["betas_1d"]
        lr = group["lr_1d"] * group["lr"] / peak if peak else 0.0
        plain = {"plain": True, "weight_decay": group["weight_decay_1d"], "betas": betas}
        return group | plain | {"lr": lr, "initial_lr": group["lr_1d"]}

    def scalars(self, group: Group, t: int) -> Scalars:
        b1, plain = group["betas"][0], "plain" in group
        of_change = group["gamma"] * b1 / (1 - b1)
        return bias_corrections(group, t) | {"of_change": of_change, "plain": plain}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        c, new = g, {}
        if not h.plain:
            c = g + h.of_change * (g - s.last_grad)
            c = c / clip(norm(c), 1.0, float("inf"))
            new["last_grad"] = g
        m = lerp(s.exp_avg, c, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, c, h.b2)
        u = m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps)
        return u, {"exp_avg": m, "exp_avg_sq": v, **new}
