"""Products of matrices that are known to be symmetric: half of each is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_optim.optimizers.base.products import prefers_symmetric_kernel

#: On a CPU, the least side of a product that is computed in strips, the least height of a strip,
#: and the number of strips of a larger one.
SIDE, STRIP, STRIPS = 512, 128, 4
#: How many columns are copied to above the diagonal at a time: their rows stay in the cache.
MIRRORED = 96


def multiply_symmetric(
    a: Tensor, b: Tensor, alpha: float = 1.0, add: Tensor | None = None, beta: float = 0.0
) -> Tensor:
    """Multiply matrices whose product is symmetric: alpha a b + beta add.

    Args:
        a: matrices, [m, n] or [batch, m, n].
        b: of shape [n, m] or [batch, n, m].
        alpha: the factor of the product.
        add: symmetric, of shape [m, m] or [batch, m, m].
        beta: its factor.
    """
    if a.ndim == 2 and a.device.type == "cpu" and len(a) >= SIDE:
        return _multiply_in_strips(a, b, alpha, add, beta)
    if a.dtype == torch.bfloat16 and prefers_symmetric_kernel(a.device.type):
        from lit_optim.kernels.symmetric_cuda import multiply_symmetric as multiply_on_gpu

        x, y = (z.reshape(-1, *z.shape[-2:]) for z in (a, b))
        more = None if add is None else add.reshape(-1, *add.shape[-2:])
        found = multiply_on_gpu(x, y, alpha, more, beta)
        return found if a.ndim == 3 else found[0]
    if add is None:
        return a @ b if alpha == 1 else alpha * (a @ b)
    product = torch.addmm if a.ndim == 2 else torch.baddbmm
    return product(add, a, b, beta=beta, alpha=alpha)


def _multiply_in_strips(
    a: Tensor, b: Tensor, alpha: float, add: Tensor | None, beta: float
) -> Tensor:
    """What is on and below the diagonal, strip by strip, and then what is above it."""
    m = len(a)
    out, height = a.new_empty(m, m), height_of_strip(m)
    for start in range(0, m, height):
        end = start + height
        place = out[start:end, :end]
        torch.addmm(
            place if add is None else add[start:end, :end],
            a[start:end], b[:, :end],
            beta=0.0 if add is None else beta, alpha=alpha, out=place,
        )  # fmt: skip
    for start in range(height, m, height):
        for left in range(start, min(start + height, m), MIRRORED):
            right = min(left + MIRRORED, start + height)
            out[:start, left:right].copy_(out[left:right, :start].mT)
    return out


def height_of_strip(m: int) -> int:
    """The number of rows that are computed at a time of a product with m of them."""
    return max(STRIP, -(-m // STRIPS // 64) * 64)


def computes_half(device_type: str, dtype: torch.dtype) -> bool:
    """Whether half of a large symmetric product is computed on such a device, or all of it."""
    return device_type == "cpu" or (
        dtype == torch.bfloat16 and prefers_symmetric_kernel(device_type)
    )


def cost_of_symmetric(m: int, n: int, is_whole: bool = False) -> float:
    """The floating-point operations of a symmetric product of m rows, of sums of n terms.

    Args:
        m: the number of rows.
        n: the number of terms.
        is_whole: whether all of it is computed.
    """
    if m < SIDE or is_whole:
        return 2.0 * m * m * n
    height = height_of_strip(m)
    return sum(2.0 * min(height, m - k) * min(k + height, m) * n for k in range(0, m, height))
