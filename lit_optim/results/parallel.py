"""Parallel coordinates: from what was swept to the metric, a line for each run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lit_optim.errors import printable
from lit_optim.results.axes import LONGEST_LABEL, format_number, tag
from lit_optim.results.data import Report, Run, Setting
from lit_optim.results.looks import SCALE, Look, shade
from lit_optim.results.series import LOG_SPAN, Window, choose_span, choose_window, values_of_runs
from lit_optim.runs.status import Status

#: Characters of a value beside its axis.
LONGEST_VALUE = 16
#: Values of an axis that are all written beside it.
MOST_LABELS = 12


@dataclass(frozen=True)
class Axis:
    """A vertical axis.

    Args:
        label: below it.
        places: the heights of values, from 0 to 1.
        ticks: heights and texts beside it.
    """

    label: str
    places: Mapping[str, float]
    ticks: Sequence[tuple[float, str]]


def miss_choices(report: Report) -> str:
    """Return what a report lacks for parallel coordinates; nothing if they can be drawn."""
    if _axes_of(report) and any(math.isfinite(value) for value in values_of_runs(report)):
        return ""
    return "a value that was swept, such as optimizer=adamw,sgd"


def columns(report: Report) -> int:
    """Return how many columns of a page the axes take."""
    return 1 if len(_axes_of(report)) < 3 else 2


def _settings(report: Report) -> list[Setting]:
    return [setting for row in report.rows for setting in row.settings]


def _values_of(setting: Setting) -> dict[str, str]:
    values = dict(setting.values)
    if math.isfinite(setting.lr) and not any(key.endswith(".lr") for key in values):
        values["lr"] = format_number(setting.lr)
    return values


def _axes_of(report: Report) -> dict[str, Axis]:
    """Return an axis for each key that differs between settings, in the order of the columns."""
    settings = [_values_of(setting) for setting in _settings(report)]
    keys = list(dict.fromkeys(key for values in settings for key in values))
    axes = {}
    for key in keys:
        texts = list(dict.fromkeys(values.get(key, "") for values in settings))
        if len(texts) > 1:
            axes[key] = _make_axis(key, texts)
    return axes


def _make_axis(key: str, texts: Sequence[str]) -> Axis:
    numbers = _read_numbers(texts)
    label = printable(key.rpartition(".")[2] or key, LONGEST_LABEL)
    if numbers is None:
        count = len(texts)
        places = {text: 1 - (place + 0.5) / count for place, text in enumerate(texts)}
    else:
        is_log = min(numbers) > 0 and (max(numbers) / min(numbers) >= LOG_SPAN or key == "lr")
        is_log = is_log or (min(numbers) > 0 and key.endswith(".lr"))
        low, high = choose_span(numbers) if is_log else (min(numbers), max(numbers))
        scale: Callable[[float], float] = math.log if is_log else float
        inner = 0.04 if low == min(numbers) and high == max(numbers) else 0.15
        places = {}
        for text, number in zip(texts, numbers, strict=True):
            share = (scale(number) - scale(low)) / ((scale(high) - scale(low)) or 1.0)
            places[text] = inner + (1 - 2 * inner) * share
            if not low <= number <= high:
                places[text] = float(number > high)
    ticks = _spread([(place, printable(text, LONGEST_VALUE)) for text, place in places.items()])
    return Axis(label, places, ticks)


def _read_numbers(texts: Sequence[str]) -> list[float] | None:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _spread(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leave out labels that would overlap, but never the first and the last."""
    ticks.sort()
    kept = ticks[:1]
    for tick in ticks[1:-1]:
        if tick[0] - kept[-1][0] >= 0.6 / MOST_LABELS and ticks[-1][0] - tick[0] > 0.05:
            kept.append(tick)
    return kept + ticks[1:][-1:]


def draw_parallel(axes: Any, report: Report, look: Look) -> None:
    """Draw the axes, and a smooth line for each run."""
    found = _axes_of(report)
    values = values_of_runs(report)
    window = choose_window(values, report.mode)
    finite = [window.hold(value) for value in values if math.isfinite(value)]
    index = {run.directory: place for place, run in enumerate(report.runs)}
    lines = [
        (run, [axis.places[values_.get(key, "")] for key, axis in found.items()])
        for setting in _settings(report)
        for values_ in [_values_of(setting)]
        for run in setting.runs
        if math.isfinite(run.value) or run.status is Status.DIVERGED
    ]
    is_better = report.mode == "min"
    lines.sort(key=lambda line: _rank(line[0], is_better), reverse=True)  # the best above
    for order, (run, heights) in enumerate(lines):
        end = _height_of(run, window, report.mode)
        color = SCALE[-1]
        if run.status is not Status.DIVERGED:
            color = shade(window.hold(run.value), finite, report.mode)
        is_best = order == len(lines) - 1
        artist = _smooth([*heights, end], color, run, look.line * (1.6 if is_best else 0.75))
        artist.set_zorder(3 + order / len(lines))
        axes.add_patch(artist)
        tag(artist, f"run-{index[run.directory]}")
    for x, axis in enumerate(found.values()):
        _draw_axis(axes, x, axis.ticks, look)
    _draw_axis(axes, len(found), _ticks(window), look)
    axes.set_xlim(-0.36, len(found) + 0.36)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(
        range(len(found) + 1),
        [*(axis.label for axis in found.values()), printable(report.metric, LONGEST_LABEL)],
        fontsize=look.text,
    )
    axes.tick_params(length=0, pad=5)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _rank(run: Run, is_min: bool) -> tuple[bool, float]:
    """Return by what runs are ordered: those that went to their end first, by their value."""
    if run.status is Status.DIVERGED:
        return False, math.inf
    return not run.has_ended, run.value if is_min else -run.value


def _height_of(run: Run, window: Window, mode: str) -> float:
    if run.status is Status.DIVERGED:
        return 1.0 if mode == "min" else 0.0
    return window.share(window.hold(run.value))


def _ticks(window: Window) -> list[tuple[float, str]]:
    from matplotlib.ticker import LogLocator, MaxNLocator

    locator = LogLocator(subs=(1.0, 3.0)) if window.is_log else MaxNLocator(6)
    ticks = locator.tick_values(window.low, window.high)
    return [(window.share(tick), format_number(tick)) for tick in ticks if window.holds(tick)]


def _draw_axis(axes: Any, x: int, ticks: Sequence[tuple[float, str]], look: Look) -> None:
    axes.plot([x, x], [0, 1], color=look.ink, linewidth=0.8, zorder=6)
    heights = [height for height, _ in ticks]
    axes.plot([x] * len(ticks), heights, "_", color=look.ink, markersize=5, zorder=6)
    # lines pass behind the text; a page does that in its own color
    back = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.4}
    for height, text in ticks:
        label = axes.annotate(
            text,
            (x, height),
            (-4 if x == 0 else 4, 0),
            textcoords="offset points",
            fontsize=look.small,
            horizontalalignment="right" if x == 0 else "left",  # no line runs left of the first
            verticalalignment="center",
            bbox=back if look.has_legend else None,
            zorder=7,
        )
        tag(label, "label")


def _smooth(heights: Sequence[float], color: str, run: Run, width: float) -> Any:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points, codes = [(0.0, heights[0])], [Path.MOVETO]
    for x, (before, after) in enumerate(pairwise(heights)):
        points += [(x + 0.45, before), (x + 0.55, after), (x + 1.0, after)]
        codes += [Path.CURVE4] * 3
    dashes: Any = "-" if run.has_ended else (0, (1, 2))
    if run.status is Status.DIVERGED:
        dashes = (0, (3, 2))
    return PathPatch(
        Path(points, codes),
        fill=False,
        edgecolor=color,
        linewidth=width,
        linestyle=dashes,
        alpha=0.85,
        capstyle="round",
    )
