"""The lr that a run would have if none was typed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from lit_optim.config.lr import LIKE_ADAMW
from lit_optim.config.places import groups, mapping_of
from lit_optim.errors import UsageError
from lit_optim.results.data import Run


def default_lr(run: Run) -> float:
    """The default lr of a run's optimizer, or that of the preset for its data.

    Returns:
        NaN where the choices are unknown, or are not among those of today.
    """
    optimizer, preset = run.choices.get("optimizer", ""), run.choices.get("preset", "")
    if optimizer in LIKE_ADAMW and not math.isnan(found := _lr_in("preset", preset)):
        return found
    return _lr_in("optimizer", optimizer)


@cache
def _lr_in(group: str, choice: str) -> float:
    """The lr that a file of ours sets."""
    path = groups().get(group, {}).get(choice)
    if path is None:
        return math.nan
    try:
        found: Any = mapping_of(path)
    except UsageError:
        return math.nan
    if group == "preset":
        found = found.get("optimizer")
    value = found.get("lr") if isinstance(found, dict) else None
    return float(value) if isinstance(value, int | float) else math.nan
