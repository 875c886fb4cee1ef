"""The words a rule is written in, beside `+ - * / < >`.

They ask only that the numbers carry the method of the same name, so one rule runs on whatever
carries them. `total` and `mean` look at the whole tensor: a kernel goes over it once more for them.
"""

from __future__ import annotations

from typing import Any

import torch

from lit_optim.kernels.precision import widest


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
    return x.clamp(low, high)


def where(condition: Any, x: Any, y: Any) -> Any:
    """X where the condition holds, else y; at least one of them is no plain number."""
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, x, y)
    return condition.where(x, y)


def lerp(x: Any, y: Any, weight: float) -> Any:
    """(1 − weight) x + weight y: with weight = 1 − β this is the moving average EMA_β."""
    return x + weight * (y - x)


def total(x: Any) -> Any:
    """The sum of x over the elements of the tensor, in the widest dtype of its device."""
    return x.sum(dtype=widest(x.device)) if isinstance(x, torch.Tensor) else x.sum()


def mean(x: Any) -> Any:
    """The mean of x over the elements of the tensor, in the widest dtype of its device."""
    return x.mean(dtype=widest(x.device)) if isinstance(x, torch.Tensor) else x.mean()
