"""Prodigy."""

import logging
from collections.abc import Callable
from math import sqrt as host_sqrt
from types import SimpleNamespace
from typing import Annotated, Any

import torch
from torch import Tensor

from lit_optim.kernels.arithmetic import absolute, average_squares, dot, lerp, sqrt, total
from lit_optim.optimizers.base import Batch, Elementwise, State
from lit_optim.optimizers.base.groups import check_is_group
from lit_optim.optimizers.base.types import (
    Beta,
    Betas,
    Group,
    NonNegative,
    Positive,
    Scalars,
    Update,
    Value,
)

LOG = logging.getLogger("lit_optim")


class Prodigy(Elementwise):
    """Adam that estimates its lr: d, a lower bound of the distance to the solution.

    Mishchenko & Defazio 2023, Prodigy: An Expeditiously Adaptive Parameter-Free Learner,
    arXiv:2306.06101, Alg. 4; as in the authors' package.

        size = lr d sqrt(1 - b2^k) / (1 - b1^k), the roots only with use_bias_correction
        num = b3 num + d / d0 size <g, p0 - p>;   s = b3 s + d / d0 size g
        d' = max(d, d_coef num / |s|_1), at most growth_rate d
        m = b1 m + (1 - b1) d g;   v = b2 v + (1 - b2) d² g²
        p = p - size (m / (sqrt(v) + d' eps) + weight_decay p);   d = d'

    num, |s|_1 and d are sums over all parameters of all groups; k counts updates.

    Differs: groups may have different lrs, which the package rejects except for 0; each group then
    has its own size, in the sums too. As in the package, a step in which all gradients are 0
    changes nothing.

    State: `exp_avg` (m), `exp_avg_sq` (v), `s` and `p0`, each of the parameter's shape. Group: `d`,
    `d_max`, `d_numerator` (num) and `k`.

    Args:
        params: parameters, or param groups.
        lr: scales the estimate; 1 unless training is unstable, with any schedule.
        betas: decay rates of the averages of g and g².
        beta3: decay rate of num and s; null: sqrt(b2).
        eps: added to the denominator for numerical stability.
        weight_decay: p shrinks by size weight_decay, or it is added to g, see below.
        decoupled_weight_decay: as in AdamW; otherwise weight_decay p is added to g.
        use_bias_correction: as in Adam; d then starts more slowly.
        safeguard_warmup: leave size out of s, so that warmup of the lr does not raise d.
        d0: the initial d, smaller than any right one.
        d_coef: scales the estimate; tune this one, from 0.5 to 2.
        growth_rate: the largest factor by which d may grow in an update; null: no limit.
    """

    lr: NonNegative = 1.0
    betas: Betas = (0.9, 0.999)
    beta3: Beta | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = True
    use_bias_correction: bool = False
    safeguard_warmup: bool = False
    d0: Positive = 1e-6
    d_coef: Positive = 1.0
    growth_rate: Annotated[float, "> 1"] | None = None

    coupled_weight_decay = True
    requirements = ("dense", "lr_of_1", "one_lr", "whole")
    lr_range = (1e-1, 1e1)
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
    other_states = {"s": State("weight-like"), "p0": State("weight-like", None)}

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, with the d of the existing ones."""
        check_is_group(param_group)
        d0 = param_group.get("d0", self.defaults["d0"])
        initial = {"d": d0, "d_max": d0, "d_numerator": 0.0, "k": 0}
        self.defaults = initial | self.defaults
        current = self.param_groups[0] if self.param_groups else initial
        super().add_param_group({key: current[key] for key in initial} | param_group)
        self._warn_of_low_precision(self.param_groups[-1])

    def _warn_of_low_precision(self, group: Group) -> None:
        """Warn that p - p0 stays 0, and so d stays d0, if rounding loses the first steps."""
        low = {p.dtype for p in group["params"]} & {torch.bfloat16, torch.float16}
        if low and group["master"] == "none" and not self.__dict__.get("_has_warned"):
            self.__dict__["_has_warned"] = True
            names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in low))
            LOG.warning(
                "Prodigy: first steps of about d0=%g are lost in %s parameters, so that d stays "
                "there; keep them in float32 (trainer.precision=bf16-mixed)%s or raise d0",
                group["d0"], names, ", master=split" if torch.bfloat16 in low else "",
            )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Estimate d, then update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        before = self.param_groups[0]["d"]
        if self._estimate():
            self.__dict__["_d_before"] = before
            try:
                super().step()
            finally:
                del self.__dict__["_d_before"]
            for group in self.param_groups:
                group["k"] += 1
        return loss

    def _estimate(self) -> bool:
        """Average the gradients into s and num, and estimate d; False if all gradients are 0."""
        first = self.param_groups[0]
        d, ways, norms = first["d"], list[Any](), list[Any]()
        for group in self.param_groups:
            size = self.effective_lr(group, 1)
            reductions = self._reduce(group, size)
            norms += reductions.get("norm", ())  # none without gradients or elements
            if group["lr"] > 0:
                ways += [d / group["d0"] * size * way for way in reductions.get("way", ())]
        denominator = _sum(norms)
        numerator = first["d_numerator"] * _beta3(first) + _sum(ways)
        if denominator == 0:
            return False
        if any(group["lr"] > 0 for group in self.param_groups):
            estimate = first["d_coef"] * numerator / denominator
            d_max = max(first["d_max"], estimate)
            d = max(d, estimate) if d == first["d0"] else d
            d = d_max if first["growth_rate"] is None else min(d_max, d * first["growth_rate"])
            for group in self.param_groups:
                group |= {"d": d, "d_max": d_max, "d_numerator": numerator}
        return True

    def _reduce(self, group: Group, size: float) -> dict[str, list[Any]]:
        """Average the gradients of a group into s; returns <g, p0 - p> and |s|_1 by tensor."""
        params = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] or self.start(p, group) for p in params]
        batch = Batch(params, [p.grad for p in params], states)
        h = SimpleNamespace(
            b3=_beta3(group),
            take=group["d"] / group["d0"] * (group["d"] if group["safeguard_warmup"] else size),
            weight_decay=group["weight_decay"],
            coupled=self.is_coupled(group) and group["weight_decay"] != 0,
            maximize=group["maximize"],
        )
        return self.run_rule(group, batch, _average_gradient, ("s", "p0"), h)

    def effective_lr(self, group: Group, t: int) -> float:
        (b1, b2), k = group["betas"], group["k"] + 1
        debias = host_sqrt(1 - b2**k) / (1 - b1**k) if group["use_bias_correction"] else 1.0
        return float(self._current_d(group) * group["lr"] * debias)

    def scalars(self, group: Group, t: int) -> Scalars:
        return {"d": self._current_d(group), "d_eps": group["d"] * group["eps"]}

    def _current_d(self, group: Group) -> float:
        """The d of the update; within a step the group already has the next one."""
        before: float | None = self.__dict__.get("_d_before")
        return float(group["d"]) if before is None else before

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, h.d * g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, h.d * g, h.b2)
        u = m / (sqrt(v) + h.d_eps)
        return u, {"exp_avg": m, "exp_avg_sq": v}


def _beta3(group: Group) -> float:
    return float(host_sqrt(group["betas"][1]) if group["beta3"] is None else group["beta3"])


def _average_gradient(
    g: Value, p: Value, s: Value, h: Value
) -> tuple[float, float, float, dict[str, Value]]:
    """Average a gradient into s, and reduce <g, p0 - p> and |s|_1; p does not change."""
    g = -g if h.maximize else g
    g = g + h.weight_decay * p if h.coupled else g
    after = h.b3 * s.s + h.take * g
    reductions = {"way": dot(g, s.p0 - p), "norm": total(absolute(after))}
    return 1.0, 0.0, 0.0, {"s": after} | reductions


def _sum(numbers: list[Any]) -> float:
    """Sum numbers, some of them on a device, which is synchronized once."""
    tensors = [x for x in numbers if isinstance(x, Tensor)]
    floats = [x for x in numbers if not isinstance(x, Tensor)]
    return float(sum(floats) + (sum(torch.stack(tensors).tolist()) if tensors else 0.0))
