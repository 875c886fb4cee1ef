"""How figures look: on a page, and in one column of a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Told apart by color-blind readers (Okabe & Ito), best first; further rows are gray.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a3ea1", "#5b4a3c")
#: Told apart without colors.
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "*")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.6, 1.2, 1.6)),
    (0, (3, 1.2)),
    (0, (8, 2)),
    (0, (6, 1.4, 1.2, 1.4, 1.2, 1.4)),
    (0, (2, 2.4)),
)
#: For rows beyond these, and for what belongs to no row.
GRAY = "#9a9a98"
#: From the best value to the worst, of even lightness (cividis).
SCALE = ("#00306f", "#3a486b", "#5f616e", "#7f7c75", "#a69c75", "#cfbd69", "#f2dc4d")


@dataclass(frozen=True)
class Look:
    """The look of a figure; lengths in points (1/72 inch).

    Args:
        width: of the figure.
        ink: the color of text and axes.
        grid: the color of the lines behind.
        text: the height of letters.
        small: of the labels of ticks and in legends.
        line: the width of a line.
        marker: the diameter of a dot.
        has_legend: whether the figure explains its colors; a page does that once for all.
    """

    width: float
    ink: str
    grid: str
    text: float
    small: float
    line: float
    marker: float
    has_legend: bool

    def settings(self) -> Any:
        """Return matplotlib's settings, a mapping."""
        return {
            "axes.axisbelow": True,
            "axes.edgecolor": self.ink,
            "axes.labelcolor": self.ink,
            "axes.labelpad": 3.0,
            "axes.labelsize": self.text,
            "axes.linewidth": 0.6,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": self.text,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
            "font.size": self.text,
            "grid.color": self.grid,
            "grid.linewidth": 0.5,
            "legend.fontsize": self.small,
            "lines.linewidth": self.line,
            "lines.markersize": self.marker,
            "pdf.fonttype": 42,  # TrueType: text stays text
            "savefig.dpi": 300,
            "svg.fonttype": "none",
            "svg.hashsalt": "lit-optim",  # the same file each time
            "text.color": self.ink,
            "text.parse_math": False,  # a name with a $ is a name
            "xtick.color": self.ink,
            "xtick.labelsize": self.small,
            "xtick.major.size": 2.5,
            "xtick.major.width": 0.6,
            "xtick.minor.size": 1.5,
            "xtick.minor.width": 0.4,
            "ytick.color": self.ink,
            "ytick.labelsize": self.small,
            "ytick.major.size": 2.5,
            "ytick.major.width": 0.6,
            "ytick.minor.size": 1.5,
            "ytick.minor.width": 0.4,
        }


#: One column of a paper with two (ICML, IEEE and others).
PAPER = Look(234.0, "#222222", "#e6e6e4", 7.5, 6.5, 1.1, 3.0, True)
#: The page gives `ink` and `grid` the colors of its light or dark theme.
PAGE = Look(470.0, "#24292f", "#e4e7eb", 12.0, 11.0, 2.0, 6.0, False)


@dataclass(frozen=True)
class Style:
    """The style of a row in every figure.

    Args:
        color: of lines and dots.
        marker: of dots.
        dashes: of lines.
        is_shown: whether it is among the best, which have colors of their own.
    """

    color: str
    marker: str
    dashes: Any
    is_shown: bool


def style_of(place: int) -> Style:
    """Return the style of a row, by its place in the report."""
    if place < len(COLORS):
        return Style(COLORS[place], MARKERS[place], DASHES[place], True)
    return Style(GRAY, ".", "-", False)


def shade(value: float, values: Sequence[float], mode: str) -> str:
    """Return the color of a value on the scale from the best of the values to the worst."""
    best, worst = (min(values), max(values)) if mode == "min" else (max(values), min(values))
    share = (value - best) / (worst - best) if worst != best else 0.0
    return SCALE[min(len(SCALE) - 1, max(0, int(share * len(SCALE))))]
