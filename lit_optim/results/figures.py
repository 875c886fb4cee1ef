"""The figures of a report, drawn with matplotlib: the same for a page and for a paper.

An artist that stands for a run or a row has a `gid` such as `run-12` or `row-3`, by which the page
finds it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lit_optim.errors import printable
from lit_optim.metric_names import pick
from lit_optim.results import parallel, trials
from lit_optim.results.axes import finish_metric_axis, format_number, set_lr_axis, tag
from lit_optim.results.cells import name_row
from lit_optim.results.data import Report, Row, Run
from lit_optim.results.legends import add_legend
from lit_optim.results.looks import COLORS, GRAY, Look, style_of
from lit_optim.results.series import (
    FAR,
    Window,
    average_curves,
    choose_span,
    choose_window,
    expect_best,
    read_curve,
    values_of_runs,
    values_of_trials,
)
from lit_optim.runs.status import Status

#: Characters of a name in a legend.
LONGEST_NAME = 40
#: For one figure, as a share of the width of a column.
HEIGHT = 0.72
#: matplotlib's caret that points up, and stands on its place.
DEFAULT_MARK: Final = 10


@dataclass(frozen=True)
class Drawing:
    """One kind of figure.

    Args:
        name: of its file.
        title: on the page.
        meaning: a sentence below it.
        miss: says what a report lacks for it; nothing if it can be drawn.
        draw: draws it into axes.
        columns: how many of the page's columns it takes.
    """

    name: str
    title: str
    meaning: str
    miss: Callable[[Report], str]
    draw: Callable[[Any, Report, Look], None]
    columns: Callable[[Report], int] = lambda report: 1


def _miss_lrs(report: Report) -> str:
    for row in report.rows:
        if len({setting.lr for setting in row.settings if _is_drawable(setting.lr)}) > 1:
            return ""
    return "several learning rates of an optimizer, such as optimizer.lr=1e-3,3e-3,1e-2"


def _is_drawable(lr: float) -> bool:
    return 1e-30 < lr < 1e30


def draw_sensitivity(axes: Any, report: Report, look: Look) -> None:
    """Draw each run over its learning rate, and the best mean of each learning rate."""
    index = index_runs(report)
    window = choose_window(values_of_runs(report), report.mode)
    drawn = [
        (place, row)
        for place, row in enumerate(report.rows)
        if any(_is_drawable(setting.lr) for setting in row.settings)
    ]
    lrs = [setting.lr for _, row in drawn for setting in row.settings]
    low, high = choose_span([lr for lr in lrs if _is_drawable(lr)])
    step = max(1.5, (high / low) ** 0.12)
    beyond: dict[float, str] = {}
    for place, row in reversed(drawn):  # the best above the others
        style = style_of(place)
        means: dict[float, float] = {}
        for setting in row.settings:
            if not _is_drawable(setting.lr):
                continue
            x, mean = min(max(setting.lr, low / step), high * step), setting.value.mean
            if x != setting.lr:
                arrow = "→" if setting.lr > high else "←"
                beyond[x] = f"{arrow}{format_number(setting.lr)}"
            elif math.isfinite(mean):
                means[x] = pick(report.mode)(means.get(x, mean), mean)
            for run in setting.runs:
                _draw_dot(axes, run, x, window, report, place, index, look)
        xs = sorted(means)
        ys = window.tame([means[x] for x in xs])
        [line] = axes.plot(
            xs, ys, color=style.color, linestyle=style.dashes, zorder=3 if style.is_shown else 2
        )
        tag(line, f"row-{place}")
        if low / FAR < row.default_lr < high * FAR and style.is_shown:
            size = 1.3 * look.marker
            mark = {"marker": DEFAULT_MARK, "markersize": size, "linestyle": "none", "zorder": 5}
            x_axis = axes.get_xaxis_transform()
            [tick] = axes.plot(
                row.default_lr, 0, color=style.color, transform=x_axis, clip_on=False, **mark
            )
            tag(tick, f"row-{place}")
    set_lr_axis(axes, beyond)
    axes.set_xlabel("learning rate")
    finish_metric_axis(axes, report, window)


def _draw_dot(
    axes: Any,
    run: Run,
    lr: float,
    window: Window,
    report: Report,
    place: int,
    index: dict[Path, int],
    look: Look,
) -> None:
    style = style_of(place)
    marker: str | int = "x"
    if run.status is Status.DIVERGED:
        y = window.hold(math.inf if report.mode == "min" else -math.inf)
    elif math.isfinite(run.value):
        y = window.hold(run.value)
        beyond = 10 if run.value > window.high else 11  # carets that point up and down
        marker = style.marker if window.holds(run.value) else beyond
    else:
        return
    [dot] = axes.plot(
        lr,
        y,
        marker=marker,
        color=style.color,
        linestyle="none",
        markersize=look.marker * (1.15 if marker == "x" else 1.0),
        markerfacecolor=style.color if run.has_ended else "none",
        markeredgewidth=look.line if marker == "x" or not run.has_ended else 0,
        alpha=1.0 if marker == "x" else 0.7,
        clip_on=False,
        zorder=4,
    )
    tag(dot, f"run-{index[run.directory]}")


def _miss_curves(report: Report) -> str:
    for row in report.rows:
        if average_curves(row.best.runs, report.metric) is not None:
            return ""
    return f"a run with at least two validations of {printable(report.metric)}"


def draw_curves(axes: Any, report: Report, look: Look) -> None:
    """Draw the metric of the best setting of each row during training: mean and range of seeds."""
    index = index_runs(report)
    curves = [average_curves(row.best.runs, report.metric) for row in report.rows]
    later: list[float] = []  # values after a tenth of the run, by which the axis is chosen
    for drawn in filter(None, curves):
        skipped = len(drawn.steps) // 10
        later += [*drawn.low[skipped:], *drawn.high[skipped:]]
    window = choose_window(later, report.mode)
    for place, row in reversed(list(enumerate(report.rows))):
        style = style_of(place)
        curve = curves[place]
        if curve is None:
            continue
        if curve.runs > 1 and style.is_shown:
            low, high = window.tame(curve.low), window.tame(curve.high)
            band = axes.fill_between(
                curve.steps, low, high, color=style.color, alpha=0.16, linewidth=0
            )
            tag(band, f"row-{place}")
        order = 3 if style.is_shown else 2
        [line] = axes.plot(
            curve.steps,
            window.tame(curve.mean),
            color=style.color,
            linestyle=style.dashes,
            marker=style.marker if style.is_shown else None,
            markevery=(0.05 + 0.012 * place, 0.2),
            zorder=order,
        )
        tag(line, f"row-{place}")
        for run in row.best.runs:
            steps, values = read_curve(run, report.metric)
            values = window.tame(values)
            if not look.has_legend and len(steps) > 1:  # shown by the page when one points at it
                [own] = axes.plot(steps, values, color=style.color, linewidth=1.2, zorder=order)
                tag(own, f"run-{index[run.directory]}-hidden")
            if run.status is Status.DIVERGED and len(steps):
                mark = {"marker": "x", "linestyle": "none", "zorder": 4, "clip_on": True}
                [end] = axes.plot(steps[-1:], values[-1:], color=style.color, **mark)
                tag(end, f"run-{index[run.directory]}")
    axes.set_xlabel("updates")
    axes.xaxis.set_major_formatter(lambda x, _: format_number(x))
    axes.margins(x=0.01)
    finish_metric_axis(axes, report, window)


def _miss_trials(report: Report) -> str:
    if any(len(values_of_trials(row)) > 1 for row in report.rows):
        return ""
    return "several settings of a choice, such as its learning rates"


def draw_best_of(axes: Any, report: Report, look: Look) -> None:
    """Draw the expected best of k settings of each row, tried in random order."""
    found_of = [expect_best(values_of_trials(row), report.mode) for row in report.rows]
    ends = [value for found in found_of for value in (*found[len(found) // 4 :], *found[-1:])]
    window = choose_window(ends, report.mode)
    longest = max(map(len, found_of), default=1)
    for place, found in reversed(list(enumerate(found_of))):
        if not found:
            continue
        style = style_of(place)
        few = len(found) <= 20
        [line] = axes.plot(
            range(1, len(found) + 1),
            window.tame(found),
            color=style.color,
            linestyle=style.dashes,
            marker=style.marker if style.is_shown else None,
            markevery=1 if few else (0.05 + 0.012 * place, 0.2),
            zorder=3 if style.is_shown else 2,
        )
        tag(line, f"row-{place}")
    axes.set_xlabel("trials")
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    axes.set_xlim(1 - 0.03 * longest, longest * 1.03)
    finish_metric_axis(axes, report, window, "expected best ")


DRAWINGS = (
    Drawing(
        "sensitivity",
        "Sensitivity to the learning rate",
        "Each dot is a run, hollow if unfinished; the line joins the best means over "
        "seeds at each learning rate. × diverged, at the edge; ▲ on the axis: the lr where "
        "none is typed (the preset's for this data, else the optimizer's default); → on the axis: "
        "far beyond it.",
        _miss_lrs,
        draw_sensitivity,
    ),
    Drawing(
        "curves",
        "Learning curves",
        "The best setting of each choice: the mean over its seeds, and the range from the lowest "
        "to the highest. × a run that diverged, which the mean leaves out.",
        _miss_curves,
        draw_curves,
    ),
    Drawing(
        "trials",
        "Trials",
        "The value of each trial of a search, and a line for the best so far; hollow: stopped "
        "early or still running. × diverged.",
        trials.miss_trials,
        trials.draw_trials,
    ),
    Drawing(
        "best_of",
        "Expected best of k trials",
        "The mean, over all ways to pick k of the settings that were tried, of the best of them.",
        _miss_trials,
        draw_best_of,
    ),
    Drawing(
        "parallel",
        "Parallel coordinates",
        "Each line is a run: its settings, and on the right its result. Dashed: diverged; dotted: "
        "unfinished.",
        parallel.miss_choices,
        parallel.draw_parallel,
        parallel.columns,
    ),
)


def index_runs(report: Report) -> dict[Path, int]:
    """Return the places of the runs by their directories."""
    return {run.directory: place for place, run in enumerate(report.runs)}


def draw_figure(drawings: Sequence[Drawing], report: Report, look: Look) -> Any:
    """Return a figure with the drawings below each other, and a legend where the look has one."""
    from matplotlib.figure import Figure

    columns = 1 if look.has_legend else max(drawing.columns(report) for drawing in drawings)
    width, height = look.width * columns / 72, HEIGHT * look.width / 72
    figure = Figure(figsize=(width, height * len(drawings)), layout="constrained")
    figure.patch.set_alpha(0.0 if not look.has_legend else 1.0)
    panels = figure.subplots(len(drawings), squeeze=False)[:, 0]
    for drawing, axes in zip(drawings, panels, strict=True):
        axes.patch.set_alpha(0.0)
        drawing.draw(axes, report, look)
        if len(drawings) > 1:
            axes.set_title(drawing.title, loc="left")
    if look.has_legend:
        _add_legend_of(figure, drawings, report, look)
    return figure


def _add_legend_of(figure: Any, drawings: Sequence[Drawing], report: Report, look: Look) -> None:
    from matplotlib.lines import Line2D

    names = {drawing.name for drawing in drawings}
    handles = []
    if names != {"parallel"}:
        for place, row in enumerate(report.rows[: len(COLORS)]):
            style = style_of(place)
            handles.append(
                Line2D(
                    [],
                    [],
                    color=style.color,
                    linestyle=style.dashes,
                    marker=style.marker,
                    label=legend_name(report, row),
                )
            )
        if len(report.rows) > len(COLORS):
            others = f"{len(report.rows) - len(COLORS)} others"
            handles.append(Line2D([], [], color=GRAY, label=others))
    rows = report.rows
    shown: list[Run] = []
    if "sensitivity" in names:
        shown += [run for row in rows for setting in row.settings for run in setting.runs]
    if "curves" in names:
        shown += [run for row in rows for run in row.best.runs]
    if any(run.status is Status.DIVERGED for run in shown):
        handles.append(
            Line2D([], [], color=look.ink, marker="x", linestyle="none", label="diverged")
        )
    if "sensitivity" in names and any(not run.has_ended for run in shown):
        hollow: Any = {"marker": "o", "markerfacecolor": "none", "linestyle": "none"}
        handles.append(Line2D([], [], color=look.ink, label="unfinished", **hollow))
    if "sensitivity" in names and any(_is_drawable(row.default_lr) for row in report.rows):
        handles.append(
            Line2D(
                [],
                [],
                color=look.ink,
                marker=DEFAULT_MARK,
                linestyle="none",
                label="lr if none is given",
            )
        )
    add_legend(figure, handles)


def legend_name(report: Report, row: Row) -> str:
    """Return the name of a row, as far as a legend has room for it."""
    return printable(name_row(report, row), LONGEST_NAME)


@contextlib.contextmanager
def drawing(look: Look) -> Iterator[None]:
    """Set matplotlib up for a look; a glyph that its font lacks is no reason to warn."""
    from matplotlib import rc_context

    logger = logging.getLogger("matplotlib")
    level = logger.level
    with rc_context(look.settings()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
