"""Numbers that several algorithms derive from their hyperparameters."""

from __future__ import annotations

import math
from typing import Any

from lit_optim.optimizers.base.types import Group, Scalars


def peak_lr(group: dict[str, Any]) -> float:
    """The lr of the group before any schedule; 0 only if the lr is 0 too."""
    return float(group.get("initial_lr") or group["lr"])


def power(base: float, exponent: float) -> float:
    """The power; infinity where Python raises OverflowError."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def bias_corrections(group: Group, t: int) -> Scalars:
    """How much averages that start at 0 have seen after t updates, for betas b1 and b2.

    Returns:
        debias1 = 1 - b1^t, and sqrt_debias2 = sqrt(1 - b2^t).
    """
    b1, b2 = group["betas"][:2]
    return {"debias1": 1 - b1**t, "sqrt_debias2": math.sqrt(1 - b2**t)}
