"""The shapes of phases: functions that go from 0 to 1 while x does."""

from __future__ import annotations

import math
from collections.abc import Callable

Shape = Callable[[float], float]


def linear(x: float) -> float:
    """A straight line."""
    return x


def cosine(x: float) -> float:
    """Half a wave: slow, fast, slow."""
    return (1 - math.cos(math.pi * x)) / 2


def sqrt(x: float) -> float:
    """√x: fast, then slow. A cooldown of this shape is 1 - √x."""
    return math.sqrt(x)


def mirror_sqrt(x: float) -> float:
    """1 - √(1 - x): slow, then fast."""
    return 1 - math.sqrt(1 - x)


def power(k: float) -> Shape:
    """1 - (1 - x)^k: what is left falls as a polynomial."""
    return lambda x: 1 - (1 - x) ** k


def waves(cycles: float) -> Shape:
    """So many whole waves; half a one is `cosine`."""
    return lambda x: (1 - math.cos(math.pi * cycles * 2.0 * x)) / 2
