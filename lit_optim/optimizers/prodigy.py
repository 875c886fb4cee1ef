"""Prodigy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from math import sqrt as host_sqrt
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import absolute, average_squares, dot, lerp, sqrt, total
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.groups import check_is_group
from lit_optim.optimizers.base.optimizer import Batch
from lit_optim.optimizers.base.options import Options
from lit_optim.requirements import Need

LOG = logging.getLogger("lit_optim")


class Prodigy(Elementwise):
    """Adam that finds its lr: d, an estimate from below of the distance to the solution.

    Mishchenko & Defazio 2023, Prodigy: An Expeditiously Adaptive Parameter-Free Learner,
    arXiv:2306.06101, Alg. 4; as in the authors' package.

        size = lr d sqrt(1 - b2^k) / (1 - b1^k), the roots only with use_bias_correction
        num = b3 num + d / d0 size <g, p0 - p>;   s = b3 s + d / d0 size g
        d' = max(d, d_coef num / |s|_1), at most growth_rate d
        m = b1 m + (1 - b1) d g;   v = b2 v + (1 - b2) d² g²
        p = p - size (m / (sqrt(v) + d' eps) + weight_decay p);   d = d'

    num, |s|_1 and d are of all parameters of all groups together; k counts updates.

    Differs: from the package where groups differ in lr, which it refuses but for 0: here each group
    has its own size, in the sums as well. A step in which all gradients are 0 changes nothing, as
    there.

    State: `exp_avg` (m), `exp_avg_sq` (v), `s` and `p0`, each of the parameter's shape. Group: `d`,
    `d_max`, `d_numerator` (num) and `k`.

    Args:
        params: parameters, or param groups.
        lr: scales what is found; 1 unless it is unstable, under any schedule.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        beta3: memory of num and s; null: sqrt(b2).
        eps: keeps the denominator from zero.
        weight_decay: multiplied by size; or through the gradient, see below.
        decoupled_weight_decay: as in AdamW; otherwise it goes through the gradient.
        use_bias_correction: as in Adam; then d begins more slowly.
        safeguard_warmup: leave size out of s, so that a warmup of the lr does not raise d.
        d0: the first d, below any that is right.
        d_coef: scales the estimate: the way to tune it, from 0.5 to 2.
        growth_rate: d may grow by this factor in an update; null: by any.
    """

    coupled_weight_decay: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("dense", "lr_of_1", "one_lr", "whole")
    lr_range: ClassVar[tuple[float, float]] = (1e-1, 1e1)

    #: d before the update that is being made; None between updates.
    _before: float | None = None
    _has_warned = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1.0,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        beta3: Annotated[float, "in [0, 1)"] | None = None,
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        decoupled_weight_decay: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: Annotated[float, "> 0"] = 1e-6,
        d_coef: Annotated[float, "> 0"] = 1.0,
        growth_rate: Annotated[float, "> 1"] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
            **options,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, at the d of the others."""
        check_is_group(param_group)
        d0 = param_group.get("d0", self.defaults["d0"])
        begin = {"d": d0, "d_max": d0, "d_numerator": 0.0, "k": 0}
        for key, value in begin.items():
            self.defaults.setdefault(key, value)
        there = self.param_groups[0] if self.param_groups else begin
        super().add_param_group({key: there[key] for key in begin} | param_group)
        self._warn_of_low_precision(self.param_groups[-1])

    def _warn_of_low_precision(self, group: dict[str, Any]) -> None:
        """Say that p - p0 stays 0 where the first steps are lost in rounding, and d stays d0."""
        kinds = {p.dtype for p in group["params"]} & {torch.bfloat16, torch.float16}
        if kinds and group["master"] == "none" and not self._has_warned:
            self._has_warned = True
            names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            also = ", master=split" if torch.bfloat16 in kinds else ""
            LOG.warning(
                "Prodigy: first steps of about d0=%g are lost in %s parameters, so that d stays "
                "there; keep them in float32 (trainer.precision=bf16-mixed)%s or raise d0",
                group["d0"], names, also,
            )  # fmt: skip

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        more = {
            "s": torch.zeros_like(p, dtype=compute_dtype(p)),
            "p0": p.detach().to(compute_dtype(p), copy=True),
        }
        return super().new_state(p, group) | more

    def loaded(  # noqa: D102
        self, p: Tensor, group: dict[str, Any], saved: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        tensors = super().loaded(p, group, saved)
        for name in saved.keys() & {"s", "p0"}:
            tensors[name].copy_(saved[name])
        return tensors

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Estimate d, then update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        before = self.param_groups[0]["d"]
        if self._estimate():
            self._before = before
            try:
                super().step()
            finally:
                self._before = None
            for group in self.param_groups:
                group["k"] += 1
        return loss

    def _estimate(self) -> bool:
        """Take the gradients into s and num, and d from them; False if all are 0."""
        one = self.param_groups[0]
        d = one["d"]
        ways: list[Any] = []
        norms: list[Any] = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] or self.start(p, group) for p in params]
            batch = Batch(params, [p.grad for p in params], states)
            size = self.effective_lr(group, 1, {})
            told = self.go_over(group, batch, _taken, ("s", "p0"), self._of_s(group, size))
            norms += told.get("norm", ())  # nothing where there are no gradients, or no elements
            if group["lr"] > 0:
                ways += [d / group["d0"] * size * way for way in told.get("way", ())]
        denominator = _sum(norms)
        numerator = one["d_numerator"] * _beta3(one) + _sum(ways)
        if denominator == 0:
            return False
        if any(group["lr"] > 0 for group in self.param_groups):
            found = one["d_coef"] * numerator / denominator
            d_max = max(one["d_max"], found)
            d = max(d, found) if d == one["d0"] else d
            d = d_max if one["growth_rate"] is None else min(d_max, d * one["growth_rate"])
            for group in self.param_groups:
                group |= {"d": d, "d_max": d_max, "d_numerator": numerator}
        return True

    def _of_s(self, group: dict[str, Any], size: float) -> SimpleNamespace:
        """The scalars of `_taken`."""
        coupled = self.couples(group) and group["weight_decay"] != 0
        return SimpleNamespace(
            b3=_beta3(group),
            part=group["d"] / group["d0"] * (group["d"] if group["safeguard_warmup"] else size),
            weight_decay=group["weight_decay"],
            coupled=coupled,
            maximize=group["maximize"],
        )

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        (b1, b2), k = group["betas"], group["k"] + 1
        debias = host_sqrt(1 - b2**k) / (1 - b1**k) if group["use_bias_correction"] else 1.0
        d = group["d"] if self._before is None else self._before
        return float(d * group["lr"] * debias)

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        d = group["d"] if self._before is None else self._before
        return {"b1": b1, "b2": b2, "d": d, "d_eps": group["d"] * group["eps"]}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        m = lerp(s.exp_avg, h.d * g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, h.d * g, h.b2)
        return m / (sqrt(v) + h.d_eps), {"exp_avg": m, "exp_avg_sq": v}


def _beta3(group: dict[str, Any]) -> float:
    return float(host_sqrt(group["betas"][1]) if group["beta3"] is None else group["beta3"])


def _taken(g: Any, p: Any, s: Any, h: Any) -> tuple[float, float, float, dict[str, Any]]:
    """Take a gradient into s, and tell <g, p0 - p> and |s|_1; p stays."""
    g = -g if h.maximize else g
    g = g + h.weight_decay * p if h.coupled else g
    after = h.b3 * s.s + h.part * g
    told = {"way": dot(g, s.p0 - p), "norm": total(absolute(after))}
    return 1.0, 0.0, 0.0, {"s": after} | told


def _sum(numbers: Sequence[Tensor | float]) -> float:
    """Of numbers, some on whatever device, which is waited for once."""
    there = [x for x in numbers if isinstance(x, Tensor)]
    here = [x for x in numbers if not isinstance(x, Tensor)]
    return sum(here) + (sum(torch.stack(there).tolist()) if there else 0.0)
