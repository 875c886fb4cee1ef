"""The words a rule is written in, beside `+ - * /`.

They ask only that the numbers carry the method of the same name, so one rule runs on whatever
carries them.
"""

from __future__ import annotations

from typing import Any


def sqrt(x: Any) -> Any:
    """√x."""
    return x.sqrt()


def square(x: Any) -> Any:
    """x²."""
    return x * x


def maximum(x: Any, y: Any) -> Any:
    """The larger of x and y; NaN if either is."""
    return x.maximum(y)


def lerp(x: Any, y: Any, weight: float) -> Any:
    """(1 − weight) x + weight y: with weight = 1 − β this is the moving average EMA_β."""
    return x + weight * (y - x)
