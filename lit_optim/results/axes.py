"""What the axes of figures have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lit_optim.errors import printable
from lit_optim.results.data import Report
from lit_optim.results.series import Window

#: Characters of a label.
LONGEST_LABEL = 24
#: For the line at the target.
TARGET_COLOR = "#808890"


def tag(artist: Any, name: str) -> None:
    """Name what an artist stands for, such as `run-12` or `row-3`."""
    artist.set_gid(name)


def format_number(value: float) -> str:
    """Return a short form of a number, such as 0.02, 3e-5 or 20000."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def set_lr_axis(axes: Any, beyond: Mapping[float, str]) -> None:
    """Make the x axis logarithmic, with labels as one types them.

    Args:
        axes: with everything drawn.
        beyond: labels of places at the edge, where what is far off is drawn.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.1, high * 1.1)
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2.2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 3.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(lambda x, _: format_number(x))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if beyond:
        axes.set_xticks(list(beyond), list(beyond.values()), minor=True)
        axes.tick_params(axis="x", which="minor", labelsize=axes.xaxis.label.get_size() * 0.9)


def finish_metric_axis(axes: Any, report: Report, window: Window, before: str = "") -> None:
    """Set the limits, the label and the grid of the y axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if window.is_log:
        axes.set_yscale("log")
        decades = math.log10(window.high / window.low)
        subs = (1.0,) if decades > 2.2 else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda y, _: format_number(y))
    axes.set_ylim(window.low, window.high)
    axes.set_ylabel(before + printable(report.metric, LONGEST_LABEL))
    axes.grid(axis="y")
    if math.isfinite(report.target) and window.holds(report.target):
        axes.axhline(report.target, linewidth=0.8, linestyle=(0, (2, 2)), color=TARGET_COLOR)
        label = axes.annotate(  # beside the frame, where nothing else is drawn
            "target",
            (1.0, report.target),
            (3, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize="small",
            color=TARGET_COLOR,
            verticalalignment="center",
        )
        tag(label, "label")
