"""Large matrices on a CPU, a few rows at a time: what is read again is still in the cache.

Whole temporary matrices would be fresh memory, which takes longer than the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lit_optim.kernels.arithmetic import square
from lit_optim.optimizers.base.linalg import frobenius

#: How many elements a piece has for each thread.
PIECE = 1 << 17
#: Norms between these can be computed in float32, without squares that overflow or vanish.
SAFE_NORMS = 1e-15, 1e18


def divide_rows(m: int, n: int) -> list[slice]:
    """The rows of the pieces of a matrix [m, n]."""
    height = max(1, PIECE * torch.get_num_threads() // n)
    return [slice(start, start + height) for start in range(0, m, height)]


def copy_in_pieces(
    compute: Callable[[slice], Tensor], shape: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, float]:
    """Put a matrix together in another dtype, and compute its Frobenius norm.

    Args:
        compute: returns some rows of it.
        shape: of the matrix.
        dtype: of the copy.
    """
    found, norms = torch.empty(shape, dtype=dtype), []
    for rows in divide_rows(*shape):
        x = compute(rows)
        norms.append(float(find_norms(x)))
        found[rows] = x
    return found, math.hypot(*norms)


def find_norms(x: Tensor) -> Tensor:
    """The Frobenius norms of matrices [..., m, n] as [..., 1, 1]."""
    if x.device.type == "cpu" and x.dtype == torch.float32:  # which copies x to sum in float64
        norms: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        if bool(((norms > SAFE_NORMS[0]) & (norms < SAFE_NORMS[1])).all()):
            return norms
    return frobenius(x)


def find_squares(x: Tensor) -> Tensor:
    """The mean square of each row of matrices [batch, m, n], [batch, m, 1], at least in float32."""
    if x.device.type != "cpu":
        return _squares(x)
    parts = [torch.cat([_squares(one[rows]) for rows in divide_rows(*one.shape)]) for one in x]
    return torch.stack(parts)


def _squares(x: Tensor) -> Tensor:
    found: Tensor = square(x.float() if x.dtype == torch.bfloat16 else x).mean(-1, keepdim=True)
    return found
