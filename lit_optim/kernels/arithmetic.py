"""The functions to write a rule with, besides `+ - * /` and comparisons.

The primitives, which `primitives` defines, work on tensors, on symbols and on numbers; the other
functions are built from them. `total`, `mean`, `dot`, `norm` and `rms` reduce over the whole
tensor, for which a kernel makes one more pass over it. Squares of float32 numbers overflow from
1.8e19 on, so a rule averages or sums squares with `average_squares`, `norm` or `rms`.
"""

from __future__ import annotations

from typing import Any

import torch

from lit_optim.kernels.precision import accumulation_dtype
from lit_optim.kernels.primitives import (
    absolute,
    clip,
    double_product,
    maximum,
    sign,
    sqrt,
    where,
)

__all__ = [
    "absolute",
    "average_squares",
    "clip",
    "dot",
    "lerp",
    "maximum",
    "mean",
    "norm",
    "rms",
    "sign",
    "sqrt",
    "square",
    "total",
    "where",
]


def square(x: Any) -> Any:
    """x²."""
    return x * x


def lerp(x: Any, y: Any, weight: Any) -> Any:
    """(1 − weight) x + weight y: with weight = 1 − β this is the moving average EMA_β.

    Computed from the nearer end, as torch does, so that weight 0 gives x and weight 1 gives y.
    """
    if isinstance(weight, int | float):
        return x + weight * (y - x) if weight < 0.5 else y + (weight - 1.0) * (y - x)
    is_near_x = weight < 0.5
    return where(is_near_x, x, y) + where(is_near_x, weight, weight - 1.0) * (y - x)


def average_squares(v: Any, x: Any, beta: Any) -> Any:
    """β v + (1 − β) x²: EMA_β of squares, in the order of torch's addcmul.

    x² alone is never formed: it may overflow where (1 − β) x² does not, and an average that has
    become infinite stays infinite, where a difference of infinities would be NaN.
    """
    return beta * v + ((1.0 - beta) * x) * x


def total(x: Any) -> Any:
    """The sum of x over the elements of the tensor, in the accumulation dtype of its device."""
    return x.sum(dtype=accumulation_dtype(x.device)) if isinstance(x, torch.Tensor) else x.sum()


def mean(x: Any) -> Any:
    """The mean of x over the elements of the tensor, in the accumulation dtype of its device."""
    return x.mean(dtype=accumulation_dtype(x.device)) if isinstance(x, torch.Tensor) else x.mean()


def dot(x: Any, y: Any) -> Any:
    """The sum of x y over the elements of the tensor; the products are in that dtype too."""
    return total(double_product(x, y))


def norm(x: Any) -> Any:
    """√(sum of x²) over the elements of the tensor, in the accumulation dtype of its device."""
    if isinstance(x, torch.Tensor):
        return torch.linalg.vector_norm(x, dtype=accumulation_dtype(x.device))
    return sqrt(dot(x, x))


def rms(x: Any) -> Any:
    """√(mean of x²) over the elements of the tensor, in the accumulation dtype of its device."""
    if isinstance(x, torch.Tensor):
        return norm(x) / x.numel() ** 0.5
    return sqrt(dot(x, x) / x.numel())
