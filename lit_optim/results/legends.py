"""The legend below a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST_COLUMNS = 4


def add_legend(figure: Any, handles: Sequence[Any]) -> None:
    """Add a legend in as many columns as fit; the figure becomes higher by what it takes.

    Args:
        figure: whose legend it is.
        handles: artists with labels; of none there is no legend.
    """
    for columns in range(min(MOST_COLUMNS, len(handles)), 0, -1):
        legend = figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            handlelength=2.6,
            columnspacing=1.2,
            labelspacing=0.35,
            borderpad=0.2,
        )
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            return
        legend.remove()
