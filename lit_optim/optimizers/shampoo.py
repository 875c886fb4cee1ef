"""Shampoo."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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

    The first roots are of a full eigendecomposition. From then on the eigenvectors follow l by one
    power iteration, q = QR(l q), whose triangle has the eigenvalues on its diagonal: less than half
    of the work. Each side of each matrix has its turn within precondition_frequency updates, so
    that all steps take about as long.

    A convolution is the matrix [out, in * height * width]. A side longer than block_size is divided
    evenly into blocks of at most that size, as in Anil et al. 2020, Scalable Second Order
    Optimization for Deep Learning, arXiv:2002.09018, where it has a divisor that is not much
    smaller; l, r and their roots are those of blocks. A matrix with a side longer than
    max_precondition_dim is preconditioned on the other only, by the power -1/2. AdamW updates the
    parameters whose role is not hidden.

    State: `exp_avg` (m) and `exp_avg_sq` (v), of the parameter's shape; `left` (l), `left_basis`
    (its eigenvectors), `left_root` (wl), and the same of `right` (r), square, those of blocks below
    each other; AdamW's for other parameters. Above the diagonal l and r are filled in only when
    they are decomposed.

    Args:
        params: the model; param groups with a `role`; or hidden matrices only.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g²; b2 also of l and r.
        eps: added to Adam's denominator for numerical stability.
        weight_decay: of matrices; decoupled: p shrinks by lr weight_decay.
        precondition_frequency: updates from one computation of the roots to the next.
        max_precondition_dim: the longest side that is preconditioned.
        matrix_eps: added to the eigenvalues of l and r.
        block_size: the longest side of a block; null: matrices are not divided.
    """

    lr: NonNegative = 1e-3
    betas: Betas = (0.95, 0.95)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.01
    precondition_frequency: AtLeastOne = 10
    max_precondition_dim: AtLeastOne = 4096
    matrix_eps: Positive = 1e-12
    block_size: AtLeastOne | None = 512

    lr_range = (1e-3, 1e-1)
    states = {"exp_avg": State(), "exp_avg_sq": State("non-negative")}
    side_states = {"": 0.0, "_basis": 0.0, "_root": 0.0}

    def scalars(self, group: Group, t: int) -> Scalars:
        has_roots = t >= group["precondition_frequency"]
        return bias_corrections(group, t) | {
            "debias2": 1 - group["betas"][1] ** t,
            "has_roots": has_roots,
        }

    def is_due(self, turn: int, t: int, group: Group) -> bool:
        return t >= group["precondition_frequency"] and super().is_due(turn, t, group)

    def side_shapes(self, m: int, n: int, group: Group) -> dict[str, tuple[int, int]]:
        sides, most = super().side_shapes(m, n, group), group["block_size"]
        size = {side: find_block(k, most) for side, (k, _) in sides.items()}
        blocks = math.prod(k // max(1, size[side]) for side, (k, _) in sides.items())
        return {side: (blocks * k, k) for side, k in size.items()}

    def flops(self, m: int, n: int, group: Group) -> float:
        # x xᵀ is half of a product, or a whole one in blocks; then a q, QR and the root, by the
        # side of a block
        every, total = group["precondition_frequency"], 0.0
        for height, k in self.side_shapes(m, n, group).values():
            total += 3.0 * m * n * k + 6.0 * height * k**2 / every
        return total

    def direction(self, x: Value, s: Value, h: Value) -> Update:
        m, v = s.exp_avg, s.exp_avg_sq
        # in place: on a CPU fresh memory costs more than the arithmetic
        m.lerp_(x, 1 - h.b1)
        v.mul_(h.b2).addcmul_(x, x, value=1 - h.b2)
        new = {"exp_avg": m, "exp_avg_sq": v}
        sides = {side: getattr(s, side) for side in ("left", "right") if hasattr(s, side)}
        block = tuple(
            sides[side].shape[-1] if side in sides else size
            for side, size in zip(("left", "right"), x.shape[-2:], strict=True)
        )
        g = cut(x, block)
        for side, factors in sides.items():
            k = factors.shape[-1]
            factor = linalg.update_factor_(
                factors.reshape(-1, k, k), g if side == "left" else g.mT, 1 - h.b2
            )
            new[side] = factor.view(factors.shape)
            if h.due[side]:
                new |= self._refresh_root(side, h.due[side], s, new[side], 2 * len(sides), h)
        d = torch.sqrt(v).div_(h.sqrt_debias2).add_(h.eps)
        torch.div(m, d, out=d).div_(h.debias1)
        if not sides or not h.has_roots:
            return d, new
        u = cut(m, block)
        for side in sides:
            roots = getattr(s, f"{side}_root")
            root = roots.reshape(-1, *roots.shape[-1:] * 2)
            u = linalg.multiply(root, u) if side == "left" else linalg.multiply(u, root)
        u = join(u, x.shape)
        norm = linalg.frobenius(u)
        # a root that was never computed is 0, and Adam's direction is used
        scale = linalg.frobenius(d) / norm
        return torch.where(norm > 0, u.mul_(scale), d), new

    def _refresh_root(
        self, side: str, due: list[int], s: Value, factors: Tensor, power: int, h: Value
    ) -> dict[str, Tensor]:
        """Refresh the bases and roots of a side of some matrices, in place; returns both states."""
        names = f"{side}_basis", f"{side}_root"
        bases, roots = (getattr(s, name) for name in names)
        which: Any = slice(None) if len(due) == len(factors) else due
        k = factors.shape[-1]
        a, basis, root = (x[which].reshape(-1, k, k) for x in (factors, bases, roots))
        vectors, values = linalg.follow_eigenvectors(linalg.fill_symmetric_(a), basis)
        after = linalg.power(vectors, values / h.debias2, -1 / power, h.matrix_eps)
        after, ok = self.keep_if_failed("a root", after, root)
        vectors = torch.where(ok[:, None, None], vectors, basis)
        bases[which], roots[which] = (
            vectors.reshape(bases[which].shape),
            after.reshape(roots[which].shape),
        )
        return dict(zip(names, (bases, roots), strict=True))

    def _load(self, state_dict: dict[str, Any]) -> None:
        # matrices were not divided in earlier versions; AdamW's groups have no matrix_eps
        groups = [
            {"block_size": None} | group if "matrix_eps" in group else group
            for group in state_dict["param_groups"]
        ]
        super()._load(state_dict | {"param_groups": groups})

    def load_tensors(
        self, p: Tensor, group: Group, saved: dict[str, Tensor], label: str
    ) -> dict[str, Tensor]:
        for side in ("left", "right"):  # earlier versions kept no basis: 0, until it is refreshed
            if side in saved and f"{side}_basis" not in saved:
                saved = saved | {f"{side}_basis": torch.zeros_like(saved[side])}
        return super().load_tensors(p, group, saved, label)


def find_block(size: int, most: int | None) -> int:
    """The longest block of at most this size that divides a side evenly.

    A side without such a block of at least a quarter of that is not divided.
    """
    if most is None or size <= most:
        return size
    lengths = range(most, max(1, most // 4) - 1, -1)
    return next((k for k in lengths if size % k == 0), size)


def cut(x: Tensor, block: tuple[int, ...]) -> Tensor:
    """The blocks of matrices [batch, m, n] in the order of their rows: [blocks, *block]."""
    (rows, columns), (m, n) = block, x.shape[-2:]
    parts = x.reshape(-1, m // rows, rows, n // columns, columns).transpose(2, 3)
    return parts.reshape(-1, rows, columns)


def join(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """The matrices of `cut`, of this shape."""
    (rows, columns), (m, n) = blocks.shape[-2:], shape[-2:]
    parts = blocks.reshape(-1, m // rows, n // columns, rows, columns).transpose(2, 3)
    return parts.reshape(*shape)
