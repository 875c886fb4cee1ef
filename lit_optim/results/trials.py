"""The trials of a search as a figure: the value of each, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lit_optim.metric_names import best_value
from lit_optim.results.axes import finish_metric_axis, tag
from lit_optim.results.data import Report, Row, Setting
from lit_optim.results.looks import Look, style_of
from lit_optim.results.series import choose_window
from lit_optim.runs.status import Status


def miss_trials(report: Report) -> str:
    """Return what a report lacks for its trials; nothing if they can be drawn."""
    if any(len(trials_of(row)) > 1 for row in report.rows):
        return ""
    return "a search, such as search.trials=12 with optimizer.lr=auto"


def trials_of(row: Row) -> list[Setting]:
    """The trials of a row that have a value, by number."""
    trials = [one for one in row.settings if one.trial is not None]
    return sorted(
        (one for one in trials if math.isfinite(_value(one))), key=lambda one: one.trial or 0
    )


def _value(trial: Setting) -> float:
    return trial.value.mean if trial.value.count else trial.so_far.mean


def find_bests(trials: Sequence[Setting], mode: str) -> list[float]:
    """The best value up to each trial; those that were stopped early do not count."""
    best, bests = math.nan, []
    for trial in trials:
        best = best_value([best, trial.value.mean], mode)
        bests.append(best)
    return bests


def draw_trials(axes: Any, report: Report, look: Look) -> None:
    """Draw the value of each trial over its number, and the best so far of each row as a line."""
    index = {run.directory: place for place, run in enumerate(report.runs)}
    every = [trial for row in report.rows for trial in trials_of(row)]
    sound = [_value(trial) for trial in every if not _has_diverged(trial)]
    window = choose_window(sound or [_value(trial) for trial in every], report.mode)
    last = 1
    for place, row in reversed(list(enumerate(report.rows))):  # the best above the others
        style, trials = style_of(place), trials_of(row)
        for trial in trials:
            _draw_trial(axes, trial, window, report, place, index, look)
        ended = [trial for trial in trials if trial.value.count]
        if not ended:
            continue
        numbers = [float(trial.trial or 0) for trial in ended]
        last = max(last, int(numbers[-1]))
        [line] = axes.plot(
            numbers,
            window.tame(find_bests(ended, report.mode)),
            color=style.color,
            linestyle=style.dashes,
            drawstyle="steps-post",
            zorder=3 if style.is_shown else 2,
        )
        tag(line, f"row-{place}")
    axes.set_xlabel("trial")
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    axes.margins(x=0.03)
    finish_metric_axis(axes, report, window)


def _has_diverged(trial: Setting) -> bool:
    return any(run.status is Status.DIVERGED for run in trial.runs)


def _draw_trial(
    axes: Any,
    trial: Setting,
    window: Any,
    report: Report,
    place: int,
    index: Any,
    look: Look,
) -> None:
    """Draw a dot: × where a run diverged, hollow where the trial has not come to its end."""
    style, value = style_of(place), _value(trial)
    marker: str | int = style.marker
    if _has_diverged(trial):
        marker = "x"
    elif not window.holds(value):
        marker = 10 if value > window.high else 11  # carets that point up and down
    is_hollow = not trial.value.count
    [dot] = axes.plot(
        float(trial.trial or 0),
        window.hold(value),
        marker=marker,
        color=style.color,
        linestyle="none",
        markersize=look.marker * (1.15 if marker == "x" else 1.0),
        markerfacecolor="none" if is_hollow else style.color,
        markeredgewidth=look.line if marker == "x" or is_hollow else 0,
        alpha=0.8,
        clip_on=False,
        zorder=4,
    )
    tag(dot, f"run-{index[trial.runs[0].directory]}")
