"""The fields of a param group that others than its optimizer read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def initial_lr(group: Mapping[str, Any]) -> Any:
    """Return the lr that a schedule multiplies: `initial_lr`, or without a schedule `lr`."""
    return group.get("initial_lr", group["lr"])


def group_name(group: Mapping[str, Any], index: int) -> str:
    """Return the name of the group at `index`, by default `group<index>`."""
    return str(group.get("name", f"group{index}"))
