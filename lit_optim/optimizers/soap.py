"""SOAP."""

import torch

from lit_optim.kernels.arithmetic import average_squares, lerp, sqrt
from lit_optim.optimizers.base import State, Update, Value, bias_corrections, linalg
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.types import AtLeastOne, Betas, Group, NonNegative, Scalars


class SOAP(Matrixwise):
    """Adam in the eigenbasis of Shampoo's factors, which it follows slowly; AdamW for the rest.

    Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam, arXiv:2409.11321, Alg. 3.

        r = qlᵀ g qr
        m = b1 m + (1 - b1) r;   v = b2 v + (1 - b2) r²
        u = ql (m / (sqrt(v) + eps)) qrᵀ sqrt(1 - b2^k) / (1 - b1^k),   k = t - 1
        p = p - lr (u + weight_decay p)
        l = b2 l + (1 - b2) g gᵀ;   r likewise of gᵀ g
        every precondition_frequency updates: ql, qr = QR(l ql), QR(r qr); m and v are rotated

    As in the authors' code the first update only sets ql and qr, to the eigenvectors of l and r,
    and eps is not debiased. A convolution is the matrix [out, in * height * width]. A side longer
    than max_precondition_dim has no basis. AdamW updates the parameters whose role is not
    hidden.

    Differs: the authors' code decays after the step, p = (1 - lr weight_decay) (p - lr u), and
    rotates m back and forth in every update; here it is rotated only when the basis changes.

    State: `exp_avg` (m) and `exp_avg_sq` (v), of the parameter's shape, in the eigenbasis; `left`
    (l), `left_basis` (ql), `right` (r) and `right_basis` (qr), square; AdamW's for other
    parameters. Above the diagonal l and r are filled in only when they are decomposed.

    Args:
        params: the model; param groups with a `role`; or hidden matrices only.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g²; b2 also of l and r.
        eps: added to the denominator for numerical stability.
        weight_decay: of matrices; decoupled: p shrinks by lr weight_decay.
        precondition_frequency: the updates from one change of basis to the next.
        max_precondition_dim: the longest side that has a basis.
    """

    lr: NonNegative = 3e-3
    betas: Betas = (0.95, 0.95)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.01
    precondition_frequency: AtLeastOne = 10
    max_precondition_dim: AtLeastOne = 10_000

    lr_range = (3e-4, 3e-2)
    reads_values = True
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
    side_states = {"": 0.0, "_basis": 1.0}

    def effective_lr(self, group: Group, t: int) -> float:
        return float(group["lr"]) if t > 1 else 0.0

    def scalars(self, group: Group, t: int) -> Scalars:
        k, of_k = t - 1, bias_corrections(group, t - 1)
        debias = of_k["sqrt_debias2"] / of_k["debias1"] if k else 0.0
        renews = k > 0 and k % group["precondition_frequency"] == 0
        return {"debias": debias, "is_first": k == 0, "renews_basis": renews}

    def flops(self, m: int, n: int, group: Group) -> float:
        every, most = group["precondition_frequency"], group["max_precondition_dim"]
        # g and m are rotated, and x xᵀ is half of a product; a x, QR, and m is rotated twice
        sides = [k for k in (m, n) if k <= most]
        return float(sum(5.0 * m * n * k + (5.0 * k**3 + 4.0 * m * n * k) / every for k in sides))

    def direction(self, x: Value, s: Value, h: Value) -> Update:
        g, new, m, v, u = x, dict[str, Value](), s.exp_avg, s.exp_avg_sq, torch.zeros_like(x)
        if not h.is_first:
            r = rotate(g, s)
            m, v = lerp(m, r, 1 - h.b1), average_squares(v, r, h.b2)
            u = h.debias * rotate_back(m / (sqrt(v) + h.eps), s)
        for side, x in (("left", g), ("right", g.mT)):
            if hasattr(s, side):
                new[side] = linalg.update_factor_(getattr(s, side), x, 1 - h.b2)
        if h.is_first or h.renews_basis:
            m = rotate_back(m, s)
            for side, dim in (("left", -2), ("right", -1)):
                if hasattr(s, side):
                    v = self._renew_basis(side, dim, v, s, new, h)
            m = rotate(m, s)
        return u, new | {"exp_avg": m, "exp_avg_sq": v}

    def _renew_basis(
        self, side: str, dim: int, v: Value, s: Value, new: Scalars, h: Value
    ) -> Value:
        """Renew the basis of a side, in s and in the new states; returns v in its order."""
        name = f"{side}_basis"
        compute = linalg.compute_eigenbasis if h.is_first else linalg.refresh_eigenbasis
        basis, order = compute(linalg.fill_symmetric_(new[side]), getattr(s, name))
        basis, ok = self.keep_if_failed("an eigenbasis", basis, getattr(s, name))
        new[name] = basis
        setattr(s, name, basis)
        order = torch.where(ok[:, None], order, torch.arange(order.shape[-1]).to(order))
        return v.gather(dim, order.unsqueeze(-1 if dim == -2 else -2).expand_as(v))


def rotate(x: Value, s: Value) -> Value:
    """Rotate x into the eigenbasis: qlᵀ x qr; a side without a basis is not changed."""
    x = s.left_basis.mT @ x if hasattr(s, "left") else x
    return x @ s.right_basis if hasattr(s, "right") else x


def rotate_back(x: Value, s: Value) -> Value:
    """Rotate x out of the eigenbasis: ql x qrᵀ."""
    x = s.left_basis @ x if hasattr(s, "left") else x
    return x @ s.right_basis.mT if hasattr(s, "right") else x
