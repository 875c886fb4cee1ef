"""Shampoo."""

import torch

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import State, Update, Value, bias_corrections, linalg
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.types import AtLeastOne, Betas, Group, NonNegative, Positive, Scalars


class Shampoo(Matrixwise):
    """Gradients of hidden matrices, preconditioned on both sides, with the step size of Adam.

    Gupta et al. 2018, Shampoo: Preconditioned Stochastic Tensor Optimization, arXiv:1802.09568,
    Alg. 1; averages, debiasing and grafting to Adam: Shi et al. 2023, A Distributed Data-Parallel
    PyTorch Implementation of the Distributed Shampoo Optimizer, arXiv:2309.06497, Alg. 2.

        m = b1 m + (1 - b1) g;     v = b2 v + (1 - b2) g²
        l = b2 l + (1 - b2) g gᵀ;  r = b2 r + (1 - b2) gᵀ g
        every precondition_frequency updates: wl = (l / (1 - b2^t) + matrix_eps)^(-1/4); wr likewise
        d = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        u = wl m wr |d| / |wl m wr|,   or d until wl and wr are first computed
        p = p - lr (u + weight_decay p)

    A convolution is the matrix [out, in * height * width]. A matrix with a side longer than
    max_precondition_dim is preconditioned on the other only, by the power -1/2. AdamW updates the
    parameters whose role is not hidden.

    State: `exp_avg` (m) and `exp_avg_sq` (v), of the parameter's shape; `left` (l), `left_root`
    (wl), `right` (r) and `right_root` (wr), square; AdamW's for other parameters. Above the
    diagonal l and r are filled in only when they are decomposed.

    Args:
        params: the model; param groups with a `role`; or hidden matrices only.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g²; b2 also of l and r.
        eps: added to Adam's denominator for numerical stability.
        weight_decay: of matrices; decoupled: p shrinks by lr weight_decay.
        precondition_frequency: updates from one computation of the roots to the next.
        max_precondition_dim: the longest side that is preconditioned.
        matrix_eps: added to the eigenvalues of l and r.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.95, 0.95)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.01
    precondition_frequency: AtLeastOne = 10
    max_precondition_dim: AtLeastOne = 4096
    matrix_eps: Positive = 1e-12

    lr_range = (1e-3, 1e-1)
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
    side_states = {"": 0.0, "_root": 0.0}

    def scalars(self, group: Group, t: int) -> Scalars:
        every, debias2 = group["precondition_frequency"], 1 - group["betas"][1] ** t
        when = {"has_roots": t >= every, "renews_roots": t % every == 0}
        return bias_corrections(group, t) | when | {"debias2": debias2}

    def flops(self, m: int, n: int, group: Group) -> float:
        every, most = group["precondition_frequency"], group["max_precondition_dim"]
        # x xᵀ is half of a product; then eigenvalues, and the product of two matrices
        sides = [k for k in (m, n) if k <= most]
        return float(sum(3.0 * m * n * k + 11.0 * k**3 / every for k in sides))

    def direction(self, x: Value, s: Value, h: Value) -> Update:
        g = x
        m, v = lerp(s.exp_avg, g, 1 - h.b1), average_squares(s.exp_avg_sq, g, h.b2)
        new = {"exp_avg": m, "exp_avg_sq": v}
        d, u = m / h.debias1 / (sqrt(v) / h.sqrt_debias2 + h.eps), m
        factors = [side for side in ("left", "right") if hasattr(s, side)]
        for side in factors:
            x, root = g if side == "left" else g.mT, getattr(s, f"{side}_root")
            factor = new[side] = linalg.update_factor_(getattr(s, side), x, 1 - h.b2)
            if h.renews_roots:
                a = linalg.fill_symmetric_(factor) / h.debias2
                power = linalg.inverse_root(a, 2 * len(factors), h.matrix_eps)
                root = new[f"{side}_root"] = self.keep_if_failed("a root", power, root)[0]
            u = root @ u if side == "left" else u @ root
        if not factors or not h.has_roots:
            return d, new
        norm = linalg.frobenius(u)
        # a root that was never computed is 0, and Adam's direction is used
        return torch.where(norm > 0, u * (linalg.frobenius(d) / norm), d), new
