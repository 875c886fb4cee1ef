"""Multiplies batches of matrices whose products are symmetric, half of each, on a GPU.

The tiles on and below the diagonal are computed, and those below are stored a second time, turned
over.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.codegen.symmetric_triton import SYMMETRIC
from lit_optim.kernels.cuda import load_module

#: The sides of a tile of the product, and of what is read of both factors at a time.
TILE, DEPTH = 128, 64
#: How a tile is computed.
LAUNCH = {"num_warps": 8, "num_stages": 3}


@cache
def load_kernel() -> Any:
    """The kernel of a tile; Triton compiles it when it is first called."""
    return load_module(SYMMETRIC).multiply_tiles


def multiply_symmetric(
    a: Tensor, b: Tensor, alpha: float, add: Tensor | None, beta: float
) -> Tensor:
    """Multiply matrices of 16 bits: alpha a b + beta add, which is symmetric.

    Args:
        a: [batch, m, n].
        b: [batch, n, m].
        alpha: the factor of the products.
        add: symmetric, [batch, m, m].
        beta: its factor.
    """
    batch, m, n = a.shape
    out = a.new_empty(batch, m, m)
    rows = -(-m // TILE)
    given = out if add is None else add.contiguous()
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():
        load_kernel()[(rows * (rows + 1) // 2, batch)](
            a, b, given, out, m, n, *a.stride(), *b.stride(), alpha, beta,
            HAS_ADDEND=add is not None, IS_EVEN=not (m % TILE or n % DEPTH),
            TILE=TILE, DEPTH=DEPTH, **LAUNCH,
        )  # fmt: skip
    return out
