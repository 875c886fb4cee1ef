"""The lr that a run would have if none was typed."""

from __future__ import annotations

import math
from functools import cache

from lit_optim.config.lr import tuned_lrs
from lit_optim.config.places import groups, mapping_of
from lit_optim.errors import UsageError
from lit_optim.results.data import Run


def default_lr(run: Run) -> float:
    """The lr of a run's optimizer in the preset for its data, else the optimizer's default.

    Returns:
        NaN where the choices are unknown, or are not among those of today.
    """
    return _lr_of(run.choices.get("optimizer", ""), run.choices.get("preset", ""))


@cache
def _lr_of(optimizer: str, preset: str) -> float:
    path = groups().get("optimizer", {}).get(optimizer)
    if path is None:
        return math.nan
    try:
        lr = tuned_lrs(preset).get(optimizer, mapping_of(path).get("lr"))
    except UsageError:
        return math.nan
    return float(lr) if isinstance(lr, int | float) else math.nan
