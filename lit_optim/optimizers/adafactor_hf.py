"""Adafactor, as transformers has it."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from math import sqrt as host_sqrt
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.errors import UsageError
from lit_optim.kernels.arithmetic import average_squares, clip, lerp, rms, where
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.factored import Factored, mean_rows, mean_squares
from lit_optim.optimizers.base.groups import accepted
from lit_optim.optimizers.base.options import Options


class AdafactorHF(Factored):
    """Adafactor that needs no lr, or takes one: the usual optimizer of T5.

    Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost,
    arXiv:1804.04235, Alg. 4 and 5; in the dialect of transformers and fairseq.

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
    schedule reaches it; transformers leaves it None and schedules do nothing. Under a constant
    schedule both are equal.

    State: `exp_avg_sq_row` (r) and `exp_avg_sq_col` (c), of the parameter's shape without the last,
    or the last but one, dimension; `exp_avg_sq` (v) of a vector or a single number; with beta1 also
    `exp_avg` (m); `RMS`, the size that p had.

    Args:
        params: parameters, or param groups.
        lr: the step, relative to the size of the parameter if scale_parameter; to be given with
            relative_step=false, and only then.
        eps: eps1, in units of squared gradient, is added to g²; eps2 is the least size that a
            parameter is taken to have.
        clip_threshold: updates whose root mean square is larger are scaled down to it.
        decay_rate: how fast the memory of g² grows with t; -0.8 is about t^0.8 updates.
        beta1: averages the updates over about 1 / (1 - beta1) steps; null does without, and
            without the memory.
        weight_decay: decoupled: multiplied by the whole step a.
        scale_parameter: steps in proportion to the size of the parameter.
        relative_step: a step of 1 / sqrt(t), 1e-2 at most, instead of lr.
        warmup_init: the relative step starts at 1e-6 and grows by that much per update.

    Raises:
        ValueError: an lr together with relative_step, or neither; warmup_init without
            relative_step.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)
    row: ClassVar[str] = "exp_avg_sq_row"
    column: ClassVar[str] = "exp_avg_sq_col"
    vector: ClassVar[str] = "exp_avg_sq"
    average: ClassVar[str | None] = "exp_avg"
    size: ClassVar[str | None] = "RMS"

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] | None = None,
        eps: Annotated[tuple[float, float], ">= 0"] = (1e-30, 1e-3),
        clip_threshold: Annotated[float, "> 0"] = 1.0,
        decay_rate: Annotated[float, "<= 0"] = -0.8,
        beta1: Annotated[float, "in [0, 1)"] | None = None,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            clip_threshold=clip_threshold,
            decay_rate=decay_rate,
            beta1=beta1,
            weight_decay=weight_decay,
            scale_parameter=scale_parameter,
            relative_step=relative_step,
            warmup_init=warmup_init,
            **options,
        )
        if lr is not None and relative_step:
            raise UsageError(f"lr={lr} must go with relative_step=false: one of them sets the step")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; with relative_step its lr is a factor, 1 unless given."""
        group = self.defaults | accepted(self, param_group)
        if group["warmup_init"] and not group["relative_step"]:
            raise UsageError("warmup_init=true must go with relative_step=true")
        if group["lr"] is None:
            if not group["relative_step"]:
                raise UsageError("lr must be given with relative_step=false")
            group["lr"] = 1.0
        super().add_param_group(group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            if group["lr"] is None:  # of a state dict of transformers
                group["lr"] = 1.0

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        state = {"RMS": p.new_zeros((), dtype=compute_dtype(p))}
        if group["beta1"] is not None:
            state["exp_avg"] = torch.zeros_like(p, dtype=compute_dtype(p))
        if p.ndim < 2:
            return state | {"exp_avg_sq": torch.zeros_like(p, dtype=compute_dtype(p))}
        *batch, rows, columns = p.shape
        return state | {
            "exp_avg_sq_row": p.new_zeros((*batch, rows), dtype=compute_dtype(p)),
            "exp_avg_sq_col": p.new_zeros((*batch, columns), dtype=compute_dtype(p)),
        }

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        lr = float(group["lr"])
        if not group["relative_step"]:
            return lr
        return lr * min(1e-6 * t if group["warmup_init"] else 1e-2, 1 / host_sqrt(t))

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        return 1.0, 1.0  # the step depends on p, so the direction has it

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        eps1, eps2 = group["eps"]
        return {
            "step": self.effective_lr(group, t, carried),
            "take": t ** group["decay_rate"],
            "eps1": eps1,
            "eps2": eps2,
            "clip_threshold": group["clip_threshold"],
            "beta1": group["beta1"],
            "weight_decay": group["weight_decay"],
            "scale_parameter": group["scale_parameter"],
        }

    def numbers(self, h: SimpleNamespace, dtype: torch.dtype) -> dict[str, Any]:  # noqa: D102
        return {
            "take": h.take,
            "add": h.eps1,
            "least_mean": 0.0,
            "most": inf,
            "a": 1.0,
            "b": h.step,
            "least_size": h.eps2,
            "scaled": h.scale_parameter,
            "d": h.clip_threshold,
            "average": 0.0 if h.beta1 is None else 1 - h.beta1,
            "weight_decay": h.weight_decay,
            "spreads": True,
        }

    def direction(  # noqa: D102
        self, g: Tensor, p: Tensor, s: Any, h: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        new = {"RMS": rms(p)}
        if g.ndim < 2:
            v = average_squares(s.exp_avg_sq, g, 1 - h.take) + h.take * h.eps1
            new["exp_avg_sq"] = v
            u = g / v.sqrt()
        else:
            r = lerp(s.exp_avg_sq_row, mean_squares(g, -1)[..., 0] + h.eps1, h.take)
            c = lerp(s.exp_avg_sq_col, mean_squares(g, -2)[..., 0, :] + h.eps1, h.take)
            new |= {"exp_avg_sq_row": r, "exp_avg_sq_col": c}
            # two divisions: the product of two small means might underflow
            u = g / (r / mean_rows(r, -1)).sqrt().unsqueeze(-1) / c.sqrt().unsqueeze(-2)
        u = u / clip(rms(u) / h.clip_threshold, 1.0, inf)
        size = where(new["RMS"] > h.eps2, new["RMS"], h.eps2)
        a = h.step * size if h.scale_parameter else h.step
        u = a * u
        if h.beta1 is not None:
            u = new["exp_avg"] = lerp(s.exp_avg, u, 1 - h.beta1)
        return u + a * h.weight_decay * p, new
