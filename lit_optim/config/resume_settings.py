"""The settings below `resume`: what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_optim.errors import UsageError, explain_unknown, show

AUTO, NONE = "auto", "none"
HORIZONS = ("error", "keep", "extend")


def check_resume(settings: Mapping[str, Any]) -> None:
    """Refuse what `resume` does not take.

    Raises:
        UsageError: naming the key.
    """
    known = ("from", "horizon", "override")
    for key in settings:
        if key not in known:
            raise UsageError(explain_unknown("resume", key, known))
    for key in known:
        if key not in settings:
            raise UsageError(f"resume.{key} is required")
    where, horizon, override = (settings.get(key) for key in known)
    if not (where is None or isinstance(where, str)):
        raise UsageError(f"resume must be auto, none, or a run's directory, got {show(where)}")
    if horizon not in HORIZONS:
        raise UsageError(
            f"resume.horizon must be one of {', '.join(HORIZONS)}, got {show(horizon)}"
        )
    if not isinstance(override, list) or not all(isinstance(key, str) for key in override):
        raise UsageError(f"resume.override must be a list of keys, got {show(override)}")
