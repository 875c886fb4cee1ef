"""The tags of metrics in TensorBoard, which sorts its cards by them."""

from __future__ import annotations

#: In front of a tag of TensorBoard: its card comes after all others.
SORTED_LAST = "~"


def card_tag(metric: str) -> str:
    """Return the tag of a metric in TensorBoard."""
    return f"{SORTED_LAST}{metric}" if metric.startswith("test") else metric
