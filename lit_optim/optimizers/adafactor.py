"""Adafactor, as torch has it."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from math import sqrt as host_sqrt
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, rms, where
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.factored import Factored, mean_rows, mean_squares
from lit_optim.optimizers.base.options import Options


class Adafactor(Factored):
    """Adam without momentum, its denominator kept as row and column means: hardly any memory.

    Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost,
    arXiv:1804.04235, Alg. 4 and 5; in the dialect of torch.

        b2 = 1 - t^beta2_decay
        r = b2 r + (1 - b2) mean of g² over columns;   c the same over rows
        v = r c / max(mean of r, eps1) of a matrix, else v = b2 v + (1 - b2) g²
        u = g / max(sqrt(v), eps1);   u = u / max(1, RMS(u) / d)
        p = p - lr weight_decay p - max(eps2, RMS(p)) min(lr, 1 / sqrt(t)) u

    A tensor of more dimensions is a batch of matrices: its last two are rows and columns. Differs
    from torch where a parameter is float16 or bfloat16: the default eps1 is float32's, in which we
    compute; and where means of g² are larger than a float32 can be: they are kept as the largest
    one, where torch's become infinite and the whole matrix NaN.

    State: `row_var` (r) and `col_var` (c), of the parameter's shape with the last, or the last but
    one, dimension 1; `variance` (v) of a vector or a single number.

    Args:
        params: parameters, or param groups.
        lr: the step relative to the size of the parameter; from update 1 / lr² on (10,000 by
            default) it falls as 1 / sqrt(t).
        beta2_decay: how fast the memory of g² grows with t; -0.8 is about t^0.8 updates.
        eps: eps1, in units of gradient, keeps the denominator from zero (null: the resolution of
            the dtype); eps2 is the least size that a parameter is taken to have.
        d: updates whose root mean square is larger are scaled down to it.
        weight_decay: decoupled: multiplied by lr, not by the size of the parameter.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1.0)
    row: ClassVar[str] = "row_var"
    column: ClassVar[str] = "col_var"
    vector: ClassVar[str] = "variance"

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-2,
        beta2_decay: Annotated[float, "<= 0"] = -0.8,
        eps: Annotated[tuple[float | None, float], ">= 0"] = (None, 1e-3),
        d: Annotated[float, ">= 1"] = 1.0,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            **options,
        )

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        if p.ndim < 2:
            return {"variance": torch.zeros_like(p, dtype=compute_dtype(p))}
        *batch, rows, columns = p.shape
        return {
            "row_var": p.new_zeros((*batch, rows, 1), dtype=compute_dtype(p)),
            "col_var": p.new_zeros((*batch, 1, columns), dtype=compute_dtype(p)),
        }

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        return min(float(group["lr"]), 1 / host_sqrt(t))

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        return 1 - group["lr"] * group["weight_decay"], self.effective_lr(group, t, carried)

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        eps1, eps2 = group["eps"]
        return {"take": t ** group["beta2_decay"], "eps1": eps1, "eps2": eps2, "d": group["d"]}

    def numbers(self, h: SimpleNamespace, dtype: torch.dtype) -> dict[str, Any]:  # noqa: D102
        eps1 = torch.finfo(dtype).eps if h.eps1 is None else h.eps1
        return {
            "take": h.take,
            "add": 0.0,
            "least_mean": eps1,
            "most": 1 / eps1 if eps1 else inf,
            "a": h.a,
            "b": h.b,
            "least_size": h.eps2,
            "scaled": True,
            "d": h.d,
            "average": 0.0,
            "weight_decay": 0.0,
            "spreads": False,
        }

    def direction(  # noqa: D102
        self, g: Tensor, p: Tensor, s: Any, h: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        eps1 = torch.finfo(g.dtype).eps if h.eps1 is None else h.eps1
        if g.ndim < 2:
            v = average_squares(s.variance, g, 1 - h.take)
            new, inverse = {"variance": v}, v.rsqrt()
        else:
            r = lerp(s.row_var, mean_squares(g, -1), h.take)
            c = lerp(s.col_var, mean_squares(g, -2), h.take)
            new = {"row_var": r, "col_var": c}
            inverse = (r / clip(mean_rows(r, -2), eps1, inf)).rsqrt() * c.rsqrt()
        u = g * clip(inverse, -inf, 1 / eps1 if eps1 else inf)
        # as torch, whose max(1, NaN) is 1: what is NaN stays where it is
        over, size = rms(u) / h.d, rms(p)
        u = u / where(over > 1.0, over, 1.0)
        return where(size > h.eps2, size, h.eps2) * u, new
