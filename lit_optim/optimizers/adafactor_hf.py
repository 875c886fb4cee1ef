"""Adafactor, as transformers has it."""

from math import inf, sqrt

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, rms, where
from lit_optim.optimizers.base import Factored, Group, Scalars, Update, Value, require
from lit_optim.optimizers.base.factored import mean_rows, mean_squares
from lit_optim.optimizers.base.types import Beta, NonNegative, NonPositive, Positive, TwoNonNegative


class AdafactorHF(Factored):
    """Adafactor with or without an lr, in the version of transformers: the usual choice for T5.

    Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost,
    arXiv:1804.04235, Alg. 4 and 5; in the version of transformers and fairseq.

        b2 = 1 - t^decay_rate
        r = b2 r + (1 - b2) mean of (g² + eps1) over columns;   c the same over rows
        v = r c / mean of r of a matrix, else v = b2 v + (1 - b2) (g² + eps1)
        u = g / sqrt(v);   u = u / max(1, RMS(u) / clip_threshold)
        a = lr min(1e-6 t if warmup_init else 1e-2, 1 / sqrt(t)) if relative_step else lr
        a = a max(eps2, RMS(p)) if scale_parameter
        u = m = beta1 m + (1 - beta1) a u if beta1 is given, else a u
        p = p - a weight_decay p - u

    A tensor of more dimensions is a batch of matrices: its last two are rows and columns.

    Differs: with relative_step the lr of a group is 1 and multiplies the relative step, so that a
    schedule has an effect; in transformers the lr is None, and schedules have none. Both are equal
    under a constant schedule.

    State: `exp_avg_sq_row` (r) and `exp_avg_sq_col` (c), of the parameter's shape without the last,
    or the last but one, dimension; `exp_avg_sq` (v) of a vector or a single number; with beta1 also
    `exp_avg` (m); `RMS`, the size of p.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step size, relative to the size of the parameter if scale_parameter; required with
            relative_step=false, and allowed only then.
        eps: eps1, in units of squared gradient, is added to g²; eps2 is a lower bound on the
            size of a parameter.
        clip_threshold: updates whose root mean square is larger are scaled down to it.
        decay_rate: exponent of the growing average of g²; -0.8 averages over about t^0.8 updates.
        beta1: decay rate of an average of the updates; null: no average, which saves its memory.
        weight_decay: decoupled: multiplied by the step a.
        scale_parameter: make steps proportional to the size of the parameter.
        relative_step: use a step size of 1 / sqrt(t), at most 1e-2, instead of lr.
        warmup_init: the relative step starts at 1e-6 and grows by that much per update.

    Raises:
        ValueError: an lr together with relative_step, or neither; warmup_init without
            relative_step.
    """

    lr: NonNegative | None = None
    eps: TwoNonNegative = (1e-30, 1e-3)
    clip_threshold: Positive = 1.0
    decay_rate: NonPositive = -0.8
    beta1: Beta | None = None
    weight_decay: NonNegative = 0.0
    scale_parameter: bool = True
    relative_step: bool = True
    warmup_init: bool = False

    requirements = ("dense", "whole")
    row, column, vector = "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"
    average, size = "exp_avg", "RMS"

    def check_arguments(self, values: Scalars) -> None:
        has_one, lr = values["lr"] is None or not values["relative_step"], values["lr"]
        require(has_one, f"lr={lr} must go with relative_step=false: one of them sets the step")

    def check_hyperparameters(self, group: Group) -> None:
        warmup, relative = group["warmup_init"], group["relative_step"]
        require(relative or not warmup, "warmup_init=true must go with relative_step=true")
        require(relative or group["lr"] is not None, "lr must be given with relative_step=false")

    def effective_lr(self, group: Group, t: int) -> float:
        lr = float(group["lr"])
        if not group["relative_step"]:
            return lr
        return lr * min(1e-6 * t if group["warmup_init"] else 1e-2, 1 / sqrt(t))

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1.0, 1.0  # the step depends on p, so it is a part of the direction

    def scalars(self, group: Group, t: int) -> Scalars:
        return {"step": self.effective_lr(group, t), "take": t ** group["decay_rate"]}

    def numbers(self, h: Value, dtype: Value) -> Scalars:
        of_u = {"add": h.eps[0], "least_mean": 0.0, "most": inf, "d": h.clip_threshold}
        of_step = {"a": 1.0, "b": h.step, "least_size": h.eps[1], "scaled": h.scale_parameter}
        average = 0.0 if h.beta1 is None else 1 - h.beta1
        of_average = {"average": average, "weight_decay": h.weight_decay, "spreads": True}
        return of_u | of_step | of_average | {"take": h.take}

    def direction(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        new, (eps1, eps2) = {"RMS": rms(p)}, h.eps
        if g.ndim < 2:
            v = average_squares(s.exp_avg_sq, g, 1 - h.take) + h.take * eps1
            new["exp_avg_sq"] = v
            u = g / v.sqrt()
        else:
            r = lerp(s.exp_avg_sq_row, mean_squares(g, -1)[..., 0] + eps1, h.take)
            c = lerp(s.exp_avg_sq_col, mean_squares(g, -2)[..., 0, :] + eps1, h.take)
            new |= {"exp_avg_sq_row": r, "exp_avg_sq_col": c}
            # two divisions: the product of two small means might underflow
            u = g / (r / mean_rows(r, -1)).sqrt().unsqueeze(-1) / c.sqrt().unsqueeze(-2)
        u = u / clip(rms(u) / h.clip_threshold, 1.0, inf)
        size = where(new["RMS"] > eps2, new["RMS"], eps2)
        a = h.step * size if h.scale_parameter else h.step
        u = a * u
        if h.beta1 is not None:
            u = new["exp_avg"] = lerp(s.exp_avg, u, 1 - h.beta1)
        return u + a * h.weight_decay * p, new
