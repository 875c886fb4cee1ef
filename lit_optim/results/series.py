"""The numbers that figures show: curves over seeds, the best of several trials, limits of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lit_optim.results.data import Report, Row, Run
from lit_optim.runs.status import Status

#: Points of a curve; more cannot be told apart in a figure of this size.
MOST_POINTS = 160
#: An axis ends at this many times the distance from the best value to the third quartile.
REACH = 1.5
#: ... or at the worst value, if that is no further away than this many times as far.
NEAR = 2.0
#: The room between the best value and the end of an axis, and that of values drawn at its edge, as
#: shares of the axis.
MARGIN, EDGE = 0.07, 0.035
#: Positive values that span more than this factor get a logarithmic axis.
LOG_SPAN = 10.0
#: A learning rate that is further than this factor from all others is not drawn to scale.
FAR = 1e6

LARGEST_LOG = 690.0
#: Beyond this a value is as good as infinite: sums of such values would not be finite.
HUGE = 1e100

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A metric during training, of one run or over several seeds.

    Args:
        steps: the updates.
        mean: over the runs.
        low: the lowest run.
        high: the highest run.
        runs: how many.
    """

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    runs: int


def read_curve(run: Run, metric: str) -> tuple[Floats, Floats]:
    """Return the steps and the finite values of a run's metric, with steps that only increase."""
    steps = np.asarray(run.history.step, dtype=float)
    values = np.asarray(run.history.metrics.get(metric, ()), dtype=float)
    length = min(len(steps), len(values))
    steps, values = steps[:length], values[:length]
    kept = np.isfinite(steps) & np.isfinite(values)
    steps, first = np.unique(steps[kept], return_index=True)
    return steps, np.clip(values[kept][first], -HUGE, HUGE)


def average_curves(runs: Sequence[Run], metric: str) -> Curve | None:
    """Return the mean of runs that went to their end; while there are none, of the others.

    Runs may be validated at different steps: between two of them values are interpolated, on all
    the steps that any run has, from the last run's first to the first run's last.

    Returns:
        None: no run has two values.
    """
    whole = [run for run in runs if run.has_ended and run.status is not Status.DIVERGED]
    curves = [read_curve(run, metric) for run in whole]
    if not any(len(steps) > 1 for steps, _ in curves):
        curves = [read_curve(run, metric) for run in runs]
    curves = [curve for curve in curves if len(curve[0]) > 1]
    if not curves:
        return None
    begin = max(steps[0] for steps, _ in curves)
    end = min(steps[-1] for steps, _ in curves)
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = thin(grid[(begin <= grid) & (grid <= end)])
    if len(grid) < 2:
        return None
    values = np.stack([np.interp(grid, steps, found) for steps, found in curves])
    return Curve(grid, values.mean(0), values.min(0), values.max(0), len(curves))


def thin(values: Floats, most: int = MOST_POINTS) -> Floats:
    """Return at most this many of the values, evenly chosen, with the first and the last."""
    if len(values) <= most:
        return values
    chosen = np.linspace(0, len(values) - 1, most).round().astype(int)
    return np.asarray(values[chosen])


def expect_best(values: Sequence[float], mode: str, most: int = MOST_POINTS) -> list[float]:
    """Return the expected best of k of the values, for k = 1, 2, ...

    The mean over all subsets of k values: the i-th best of n is the best of C(n - i, k - 1) of the
    C(n, k) subsets. Nothing is sampled.

    Args:
        values: finite, one of each trial.
        mode: `min` or `max`.
        most: the largest k.
    """
    ordered = sorted(values, reverse=mode == "max")
    n = len(ordered)
    found = []
    for k in range(1, min(n, most) + 1):
        share, total = k / n, 0.0  # of the subsets in which the i-th is the best
        for i, value in enumerate(ordered[: n - k + 1], 1):
            total += share * value
            if i < n:
                share *= (n - i - k + 1) / (n - i)
        found.append(total)
    return found


def values_of_trials(row: Row) -> list[float]:
    """Return the mean over the seeds of each setting of a row that has one."""
    means = (setting.value.mean for setting in row.settings)
    return [min(max(mean, -HUGE), HUGE) for mean in means if math.isfinite(mean)]


@dataclass(frozen=True)
class Window:
    """What an axis of a metric shows; values beyond it are drawn at its edge.

    Args:
        low: the lower limit.
        high: the upper limit.
        is_log: whether the axis is logarithmic.
    """

    low: float
    high: float
    is_log: bool

    def hold(self, value: float) -> float:
        """Return the value, or a place just within the limit beyond which it is."""
        return min(max(value, self.at(EDGE)), self.at(1 - EDGE))

    def at(self, share: float) -> float:
        """Return what is at a share of the axis from its lower limit."""
        if self.is_log:
            low, high = math.log(self.low), math.log(self.high)
            return math.exp(low + share * (high - low))
        return self.low + share * (self.high - self.low)

    def share(self, value: float) -> float:
        """Return where a value is on the axis, from 0 to 1."""
        if self.is_log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def tame(self, values: Sequence[float] | Floats) -> Floats:
        """Return the values of a line, none so far off that it cannot be drawn."""
        if self.is_log:
            return np.clip(values, self.low / 1e4, self.high * 1e4)
        far = 100 * (self.high - self.low)
        return np.clip(values, self.low - far, self.high + far)

    def holds(self, value: float) -> bool:
        """Whether it is within the limits."""
        return self.low <= value <= self.high


def choose_window(values: Sequence[float], mode: str) -> Window:
    """Choose limits that show the good values well, whatever the worst ones are."""
    finite = sorted(value for value in values if abs(value) < HUGE)
    if not finite:
        return Window(0.0, 1.0, False)
    third = math.ceil(0.75 * (len(finite) - 1))
    is_log = mode == "min" and finite[0] > 1 / HUGE and finite[third] / finite[0] > LOG_SPAN
    scale = [math.log(value) for value in finite] if is_log else finite
    best, quartile, worst = scale[0], scale[third], scale[-1]
    if mode == "max":
        best, quartile, worst = scale[-1], scale[-1 - third], scale[0]
    end = best + REACH * (quartile - best)
    if abs(worst - best) <= NEAR * abs(end - best):
        end = worst
    low, high = min(best, end), max(best, end)
    margin = MARGIN * (high - low) or 0.05 * abs(high) or 0.05
    low, high = low - margin, high + margin
    if is_log:
        return Window(math.exp(max(low, -LARGEST_LOG)), math.exp(min(high, LARGEST_LOG)), True)
    return Window(low, high, False)


def choose_span(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest of positive values, without a few that are far off.

    A gap of more than a factor of `FAR` parts them, and the part with the most values is shown.
    """
    ordered = sorted(set(values))
    parts = [ordered[:1]]
    for before, value in pairwise(ordered):
        if value / before > FAR:
            parts.append([])
        parts[-1].append(value)
    most = max(parts, key=len)
    return most[0], most[-1]


def values_of_runs(report: Report) -> list[float]:
    """Return the values of the runs that did not diverge."""
    runs = (run for row in report.rows for setting in row.settings for run in setting.runs)
    return [run.value for run in runs if run.status is not Status.DIVERGED]
