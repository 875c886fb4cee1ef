"""Prodigy."""

from math import sqrt as host_sqrt

from lit_optim.kernels.arithmetic import absolute, average_squares, dot, lerp, sqrt, total
from lit_optim.optimizers.base import Group, Scalars, State, Update, Value, bias_corrections
from lit_optim.optimizers.base.lr_estimate import LrEstimating, Number, add_up
from lit_optim.optimizers.base.types import AboveOne, Beta, Betas, NonNegative, Positive


class Prodigy(LrEstimating):
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
        params: parameters, param groups, or a model: all its parameters in one group.
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
    growth_rate: AboveOne | None = None

    coupled_weight_decay = True
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
    other_states = {"s": State("weight-like"), "p0": State("weight-like", None)}

    def initial_estimates(self, group: Group) -> Scalars:
        return {"d_max": group["d0"], "d_numerator": 0.0}

    def _estimate(self) -> Scalars | None:
        """Average the gradients into s and num, and estimate d; None if all gradients are 0."""
        first = self.param_groups[0]
        d, ways, norms = first["d"], list[Number](), list[Number]()
        for group in self.param_groups:
            size, of_g = self.effective_lr(group, 1), group["d"] / group["d0"]
            take = of_g * (group["d"] if group["safeguard_warmup"] else size)
            sums = self.reduce_gradients(group, _average_gradient, b3=_beta3(group), take=take)
            norms += sums.column("norm")
            if group["lr"] > 0:
                ways += sums.column("way", d / group["d0"] * size)
        denominator, way = add_up(norms, ways)
        numerator = first["d_numerator"] * _beta3(first) + way
        if denominator == 0:
            return None
        if not any(group["lr"] > 0 for group in self.param_groups):
            return {}
        estimate = first["d_coef"] * numerator / denominator
        d_max = max(first["d_max"], estimate)
        d = max(d, estimate) if d == first["d0"] else d
        d = d_max if first["growth_rate"] is None else min(d_max, d * first["growth_rate"])
        return {"d": d, "d_max": d_max, "d_numerator": numerator}

    def effective_lr(self, group: Group, t: int) -> float:
        of_k, corrected = bias_corrections(group, group["k"] + 1), group["use_bias_correction"]
        debias = of_k["sqrt_debias2"] / of_k["debias1"] if corrected else 1.0
        return float(group["d"] * group["lr"] * debias)

    def scalars(self, group: Group, t: int) -> Scalars:
        return {"d": group["d"], "d_eps": self.next_estimate(group, "d") * group["eps"]}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        m = lerp(s.exp_avg, h.d * g, 1 - h.b1)
        v = average_squares(s.exp_avg_sq, h.d * g, h.b2)
        u = m / (sqrt(v) + h.d_eps)
        return u, {"exp_avg": m, "exp_avg_sq": v}


def _beta3(group: Group) -> float:
    return float(host_sqrt(group["betas"][1]) if group["beta3"] is None else group["beta3"])


def _average_gradient(g: Value, p: Value, s: Value, h: Value) -> dict[str, Value]:
    """Average a gradient into s; reduce <g, p0 - p> and |s|_1."""
    after = h.b3 * s.s + h.take * g
    return {"s": after, "way": dot(g, s.p0 - p), "norm": total(absolute(after))}
