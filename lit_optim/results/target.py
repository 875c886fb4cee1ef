"""Steps to a target: the value that a metric has to reach, and when runs reach it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from lit_optim.errors import printable
from lit_optim.metric_names import best_value, worst_value
from lit_optim.results.cells import name_row
from lit_optim.results.data import Report, Run, Setting
from lit_optim.results.statistics import median
from lit_optim.runs.status import Status

AUTO = "auto"
STEP = "step"  # of the columns of a history
DIGITS = 3  # of a target that was not typed


def choose_target(report: Report, wanted: float | str | None) -> tuple[float, str]:
    """The target of the metric of a report, and a line about it for the reader.

    Args:
        report: its rows are best first.
        wanted: a value; `auto`: what every run of the row in the middle reaches at its end, so that
            about half of the rows are faster and half are not, of two rows the better one; None:
            no target.

    Returns:
        NaN and an empty line without a target.
    """
    rows, metric, mode = report.rows, report.metric, report.mode
    if wanted is None or not any(run.history.step for row in rows for run in row.best.runs):
        return math.nan, ""
    sign = "≤" if mode == "min" else "≥"
    if wanted != AUTO:
        target = float(wanted)
        runs = [run for row in rows for one in row.settings for run in one.runs]
        if any(steps_of(run, target, mode) < math.inf for run in runs):
            return target, ""
        best = best_value([value for run in runs for value in (run.best, *_logged(run))], mode)
        told = f"{printable(metric)} {sign} {target:g}: no run has reached it"
        return target, told if math.isnan(best) else f"{told}; the best value is {best:.4g}"
    ends = [(row, _end(row.best, mode)) for row in rows]
    known = [(row, end) for row, end in ends if not math.isnan(end)]
    if len(known) < 2:
        return math.nan, ""
    row, end = known[(len(known) - 1) // 2]
    target = _round(end, mode)
    which = "better" if len(known) == 2 else "median"
    name = printable(name_row(report, row))
    told = f"target {printable(metric)} {sign} {target:g}: the level that every run of {name}"
    return target, f"{told}, the {which} of the {len(known)} choices, reached"


def _end(setting: Setting, mode: str) -> float:
    """The worst last value of the runs that went to their end."""
    ends = [
        run.value for run in setting.runs if run.has_ended and run.status is not Status.DIVERGED
    ]
    return worst_value(ends, mode)


def _round(value: float, mode: str) -> float:
    """A value of three digits that is not harder to reach."""
    rounding = ROUND_FLOOR if mode == "max" else ROUND_CEILING
    return float(Context(prec=DIGITS, rounding=rounding).create_decimal(repr(value)))


def steps_to(target: float, setting: Setting, mode: str, measure: str = STEP) -> float:
    """The median of the steps after which the ended runs of a setting first reach a target.

    Args:
        target: of the metric.
        setting: of the runs.
        mode: `min` or `max`.
        measure: a column of the history in place of the steps: `evaluations` or `seconds`.

    Returns:
        inf where at least half of them never do; NaN where no run has a history.
    """
    ended = [run for run in setting.runs if run.has_ended]
    steps = [steps_of(run, target, mode, measure) for run in ended]
    return median([step for step in steps if not math.isnan(step)])


def steps_of(run: Run, target: float, mode: str, measure: str = STEP) -> float:
    """The steps, or another measure, before the first validation at which a run reaches a target.

    Returns:
        inf if it never does; NaN if it has no history of the metric.
    """
    values = _logged(run)
    if not values:
        return math.nan
    for step, value in zip(getattr(run.history, measure), values, strict=True):
        if value <= target if mode == "min" else value >= target:
            return float(step)
    return math.inf


def _logged(run: Run) -> Sequence[float]:
    return run.history.metrics.get(run.monitor, ())
