"""Adafactor, as torch has it."""

from math import inf, sqrt
from typing import Annotated

import torch

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, rms, where
from lit_optim.optimizers.base import Factored, Group, Update, Value, mean_rows, mean_squares
from lit_optim.optimizers.base.types import NonNegative, NonPositive, Scalars


class Adafactor(Factored):
    """Adam without momentum, whose second moment is factored into row and column means.

    Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost,
    arXiv:1804.04235, Alg. 4 and 5; in torch's version.

        b2 = 1 - t^beta2_decay
        r = b2 r + (1 - b2) mean of g² over columns;   c the same over rows
        v = r c / max(mean of r, eps1) of a matrix, else v = b2 v + (1 - b2) g²
        u = g / max(sqrt(v), eps1);   u = u / max(1, RMS(u) / d)
        p = p - lr weight_decay p - max(eps2, RMS(p)) min(lr, 1 / sqrt(t)) u

    A tensor of more dimensions is a batch of matrices: its last two are rows and columns.

    Differs: for float16 and bfloat16 parameters the default eps1 is that of float32, the dtype of
    the computation. Means of g² that overflow float32 are kept as its largest number; in torch they
    become infinite, and the matrix NaN.

    State: `row_var` (r) and `col_var` (c), of the parameter's shape with the last, or the last but
    one, dimension 1; `variance` (v) of a vector or a single number.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the step relative to the size of the parameter; from update 1 / lr² on (10,000 by
            default) it falls as 1 / sqrt(t).
        beta2_decay: exponent of the growing average of g²; -0.8 averages over about t^0.8 updates.
        eps: eps1 bounds the denominator from below (null: the resolution of the dtype); eps2 is a
            lower bound on the size of a parameter.
        d: updates whose root mean square is larger are scaled down to it.
        weight_decay: decoupled: multiplied by lr, not by the size of the parameter.
    """

    lr: NonNegative = 1e-2
    beta2_decay: NonPositive = -0.8
    eps: Annotated[tuple[float | None, float], ">= 0"] = (None, 1e-3)
    d: Annotated[float, ">= 1"] = 1.0
    weight_decay: NonNegative = 0.0

    requirements = ("dense", "whole")
    lr_range = (1e-3, 1.0)
    row, column, vector, keeps_dimension = "row_var", "col_var", "variance", True

    def effective_lr(self, group: Group, t: int) -> float:
        return min(float(group["lr"]), 1 / sqrt(t))

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1 - group["lr"] * group["weight_decay"], self.effective_lr(group, t)

    def scalars(self, group: Group, t: int) -> Scalars:
        return {"take": t ** group["beta2_decay"]}

    def numbers(self, h: Value, dtype: torch.dtype) -> Scalars:
        eps1 = torch.finfo(dtype).eps if h.eps[0] is None else h.eps[0]
        most = 1 / eps1 if eps1 else inf
        of_u = {"least_mean": eps1, "most": most, "d": h.d, "spreads": False}
        of_step = {"a": h.a, "b": h.b, "least_size": h.eps[1], "scaled": True}
        return of_u | of_step | {"take": h.take, "add": 0.0, "average": 0.0, "weight_decay": 0.0}

    def direction(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        eps1, eps2 = torch.finfo(g.dtype).eps if h.eps[0] is None else h.eps[0], h.eps[1]
        if g.ndim < 2:
            v = average_squares(s.variance, g, 1 - h.take)
            new, inverse = {"variance": v}, v.rsqrt()
        else:
            r = lerp(s.row_var, mean_squares(g, -1), h.take)
            c = lerp(s.col_var, mean_squares(g, -2), h.take)
            new = {"row_var": r, "col_var": c}
            inverse = (r / clip(mean_rows(r, -2), eps1, inf)).rsqrt() * c.rsqrt()
        u = g * clip(inverse, -inf, 1 / eps1 if eps1 else inf)
        # as torch, whose max(1, NaN) is 1: a NaN does not spread
        over, size = rms(u) / h.d, rms(p)
        u = u / where(over > 1.0, over, 1.0)
        return where(size > eps2, size, eps2) * u, new
