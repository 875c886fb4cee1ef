"""The words a rule is written in, beside `+ - * / < >`.

They ask only that the numbers carry the method of the same name, so one rule runs on whatever
carries them. `total`, `mean`, `dot`, `norm` and `rms` look at the whole tensor: a kernel goes over
it once more for them. Squares of float32 numbers overflow from 1.8e19 on, so a rule that averages
or sums them does so with `average_squares`, `norm` or `rms`.
"""

from __future__ import annotations

from typing import Any

import torch

from lit_optim.kernels.precision import accumulation_dtype, clamp_to_dtype


def sqrt(x: Any) -> Any:
    """√x."""
    return x.sqrt()


def square(x: Any) -> Any:
    """x²."""
    return x * x


def sign(x: Any) -> Any:
    """-1, 0 or 1."""
    return x.sign()


def absolute(x: Any) -> Any:
    """|x|."""
    return x.abs()


def maximum(x: Any, y: Any) -> Any:
    """The larger of x and y; NaN if either is."""
    return x.maximum(y)


def clip(x: Any, low: float, high: float) -> Any:
    """The x nearest in [low, high]."""
    if isinstance(x, torch.Tensor):
        return x.clamp(clamp_to_dtype(low, x.dtype), clamp_to_dtype(high, x.dtype))
    return x.clamp(low, high)


def where(condition: Any, x: Any, y: Any) -> Any:
    """X where the condition holds, else y; at least one of them is no plain number."""
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, x, y)
    return condition.where(x, y)


def lerp(x: Any, y: Any, weight: Any) -> Any:
    """(1 − weight) x + weight y: with weight = 1 − β this is the moving average EMA_β.

    Taken from the nearer end, as torch does, so that weight 0 gives x and weight 1 gives y.
    """
    if isinstance(weight, int | float):
        return x + weight * (y - x) if weight < 0.5 else y + (weight - 1.0) * (y - x)
    near_x = weight < 0.5
    return where(near_x, x, y) + where(near_x, weight, weight - 1.0) * (y - x)


def average_squares(v: Any, x: Any, beta: Any) -> Any:
    """β v + (1 − β) x²: EMA_β of squares, in the order of torch's addcmul.

    x² alone is never formed: it overflows where its share in the average does not, and an average
    that is infinite stays so, where a difference of infinities would be NaN.
    """
    return beta * v + ((1.0 - beta) * x) * x


def total(x: Any) -> Any:
    """The sum of x over the elements of the tensor, in the widest dtype of its device."""
    return x.sum(dtype=accumulation_dtype(x.device)) if isinstance(x, torch.Tensor) else x.sum()


def mean(x: Any) -> Any:
    """The mean of x over the elements of the tensor, in the widest dtype of its device."""
    return x.mean(dtype=accumulation_dtype(x.device)) if isinstance(x, torch.Tensor) else x.mean()


def dot(x: Any, y: Any) -> Any:
    """The sum of x y over the elements of the tensor; products are in the widest dtype too."""
    if isinstance(x, torch.Tensor):
        dtype = accumulation_dtype(x.device)
        return (x.to(dtype) * y.to(dtype)).sum()
    return x.dot(y)


def norm(x: Any) -> Any:
    """√(sum of x²) over the elements of the tensor, in the widest dtype of its device."""
    if isinstance(x, torch.Tensor):
        return torch.linalg.vector_norm(x, dtype=accumulation_dtype(x.device))
    return sqrt(dot(x, x))


def rms(x: Any) -> Any:
    """√(mean of x²) over the elements of the tensor, in the widest dtype of its device."""
    if isinstance(x, torch.Tensor):
        return norm(x) / x.numel() ** 0.5
    return sqrt(x.dot(x) / x.numel())
