"""SOAP."""

from typing import Any

import torch

from lit_optim.optimizers.base import State, Update, Value, bias_corrections, linalg
from lit_optim.optimizers.base.linalg import multiply
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.types import AtLeastOne, Betas, Group, NonNegative, Scalars

#: The sides of a matrix that have a basis, and their dimensions.
SIDES = {"left": -2, "right": -1}


class SOAP(Matrixwise):
    """Adam in the eigenbasis of Shampoo's factors, which it follows slowly; AdamW for the rest.

    Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam, arXiv:2409.11321, Alg. 3.

        r = qlᵀ g qr
        m = b1 m + (1 - b1) r;   v = b2 v + (1 - b2) r²
        u = ql (m / (sqrt(v) + eps)) qrᵀ sqrt(1 - b2^k) / (1 - b1^k),   k = t - 1
        p = p - lr (u + weight_decay p)
        l = b2 l + (1 - b2) g gᵀ;   r likewise of gᵀ g
        every precondition_frequency updates: ql = QR(l ql), likewise qr; m and v are rotated

    As in the authors' code the first update only sets ql and qr, to the eigenvectors of l and r,
    and eps is not debiased. Each side of each matrix has its turn within precondition_frequency
    updates, so that all steps take about as long. A convolution is the matrix
    [out, in * height * width]. A side longer than max_precondition_dim has no basis. AdamW updates
    the parameters whose role is not hidden.

    Differs: the authors' code decays after the step, p = (1 - lr weight_decay) (p - lr u), changes
    all bases in the same update, and rotates m back and forth in every update; here it is rotated
    only when the basis changes.

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
        return {"debias": debias, "is_first": k == 0}

    def is_due(self, turn: int, t: int, group: Group) -> bool:
        return t > 1 and super().is_due(turn, t - 1, group)

    def flops(self, m: int, n: int, group: Group) -> float:
        every, most = group["precondition_frequency"], group["max_precondition_dim"]
        # g and m are rotated, and x xᵀ is half of a product; a x, QR, and m is rotated twice
        sides = [k for k in (m, n) if k <= most]
        return float(sum(5.0 * m * n * k + (5.0 * k**3 + 4.0 * m * n * k) / every for k in sides))

    def direction(self, x: Value, s: Value, h: Value) -> Update:
        m, v, new = s.exp_avg, s.exp_avg_sq, dict[str, Value]()
        sides = [side for side in SIDES if hasattr(s, side)]
        if h.is_first:
            u = torch.zeros_like(x)
        else:  # in place: on a CPU fresh memory costs more than the arithmetic
            r = rotate(x, s) if sides else x.clone()
            m.lerp_(r, 1 - h.b1)
            v.mul_(h.b2).addcmul_(r, r, value=1 - h.b2)
            u = rotate_back(torch.div(m, torch.sqrt(v, out=r).add_(h.eps), out=r), s).mul_(h.debias)
        for side in sides:
            g = x if side == "left" else x.mT
            new[side] = linalg.update_factor_(getattr(s, side), g, 1 - h.b2)
        if h.is_first and sides:
            bases = linalg.compute_eigenbases(x, "left" in sides, "right" in sides)
            for side, basis in bases.items():
                name = f"{side}_basis"
                new[name] = self.keep_if_failed("an eigenbasis", basis, getattr(s, name))[0]
        for side in sides:
            if h.due[side]:
                self._refresh_basis(side, h.due[side], s, m, v)
                new[f"{side}_basis"] = getattr(s, f"{side}_basis")
        return u, new | {"exp_avg": m, "exp_avg_sq": v}

    def _refresh_basis(self, side: str, due: list[int], s: Value, m: Value, v: Value) -> None:
        """Refresh the bases of a side of some matrices, and m and v with them, in place."""
        bases, dim = getattr(s, f"{side}_basis"), SIDES[side]
        which: Any = slice(None) if len(due) == len(m) else due
        basis, a = bases[which], linalg.fill_symmetric_(getattr(s, side)[which])
        refreshed, order, _ = linalg.refresh_eigenbasis(a, basis)
        refreshed, ok = self.keep_if_failed("an eigenbasis", refreshed, basis)
        order = torch.where(ok[:, None], order, torch.arange(order.shape[-1]).to(order))
        order = order.unsqueeze(-1 if dim == -2 else -2)
        part = m[which]
        if side == "left":
            m[which] = multiply(refreshed.mT, multiply(basis, part))
        else:
            m[which] = multiply(multiply(part, basis.mT), refreshed)
        v[which] = v[which].gather(dim, order.expand_as(part))
        bases[which] = refreshed


def rotate(x: Value, s: Value) -> Value:
    """Rotate x into the eigenbasis: qlᵀ x qr; a side without a basis is not changed."""
    x = multiply(s.left_basis.mT, x) if hasattr(s, "left") else x
    return multiply(x, s.right_basis) if hasattr(s, "right") else x


def rotate_back(x: Value, s: Value) -> Value:
    """Rotate x out of the eigenbasis: ql x qrᵀ."""
    x = multiply(s.left_basis, x) if hasattr(s, "left") else x
    return multiply(x, s.right_basis.mT) if hasattr(s, "right") else x
