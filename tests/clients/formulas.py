"""The formulas of schedules, by hand."""

from __future__ import annotations

import math


def linear(t: int, steps: int) -> float:
    """The factor of update t on a straight line from 1 to 0, which the last update is at."""
    return 1 - (t + 1) / steps


def cosine(t: int, warmup: float, steps: int) -> float:
    """The factor of update t: a straight line to 1, then half a wave to 0."""
    done = t + 1
    if done <= warmup:
        return done / warmup
    return (1 + math.cos(math.pi * (done - warmup) / (steps - warmup))) / 2
