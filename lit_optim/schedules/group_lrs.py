"""Reads and sets the lrs and other hyperparameters of param groups, tensors in place."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

from torch import Tensor

#: The lr of a group as it is there.
get_lr = itemgetter("lr")


def copy_lr(lr: float | Tensor) -> float | Tensor:
    """Copy an lr, which other code may fill in place."""
    return lr.clone() if isinstance(lr, Tensor) else lr


def read_lr(lr: float | Tensor) -> float | None:
    """Return an lr as a number; None for a tensor on a GPU, where reading would synchronize."""
    if isinstance(lr, Tensor):
        return float(lr) if lr.device.type == "cpu" else None
    return float(lr)


def set_lr(group: dict[str, Any], lr: float) -> None:
    """Set the lr of a group; a tensor in place, since other code may hold a reference to it."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def lr_factor(group: dict[str, Any]) -> float:
    """Return the lr as a multiple of the group's base lr."""
    base = group["initial_lr"]
    return float(group["lr"] / base) if base else 1.0


def set_hyperparameter(group: dict[str, Any], name: str, value: float) -> None:
    """Set a hyperparameter of a group that has it; `momentum` may be the first of its betas."""
    if math.isnan(value):  # a part of a sequence that sets only the lr
        return
    if group.get(name):
        group[name] = value
    elif name == "momentum" and "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
