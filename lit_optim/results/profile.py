"""Performance profiles: how often a contestant is nearly as fast as the fastest, over all tasks.

The profile of a contestant at τ is the share of the tasks whose target it reaches within τ times
the cost of the fastest (Dolan & Moré 2002, Benchmarking Optimization Software with Performance
Profiles). Its score is the area below it from 1 to τ = 4, divided by that of a perfect one, as in
the AlgoPerf benchmark (Dahl et al. 2023, arXiv:2306.07179).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lit_optim.errors import printable
from lit_optim.metric_names import best_value
from lit_optim.results.data import Profile, Report, Row
from lit_optim.results.statistics import median
from lit_optim.results.target import STEP, steps_of
from lit_optim.runs.status import Status

#: The largest ratio that counts.
TAU = 4.0
MEASURES = {STEP: "updates", "evaluations": "gradient evaluations", "seconds": "seconds"}


def divide_by_best(costs: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Divide the cost of each task by that of the fastest contestant there.

    Args:
        costs: of each contestant, one for each task, above 0; inf and NaN: it never arrives.

    Returns:
        Ratios of at least 1; inf where a contestant never arrives.
    """
    columns = list(zip(*costs.values(), strict=True))
    best = [best_value(column, "min") for column in columns]
    return {
        name: [
            cost / least if math.isfinite(cost) else math.inf
            for cost, least in zip(own, best, strict=True)
        ]
        for name, own in costs.items()
    }


def share_within(ratios: Sequence[float], tau: float) -> float:
    """The share of the tasks at which a ratio is at most τ: the profile at τ."""
    return sum(ratio <= tau for ratio in ratios) / len(ratios)


def integrate_profile(
    ratios: Sequence[float], tau: float = TAU, points: int | None = None
) -> float:
    """The area below a profile from 1 to τ, divided by τ - 1: 1 for the fastest at every task.

    Args:
        ratios: of one contestant, one for each task.
        tau: above 1.
        points: None: the exact area, to which a task adds τ less its ratio; else that of a line
            through so many evenly spaced points of the profile, of which AlgoPerf takes 100. That
            one smooths the steps, and is off by up to half the distance of two points.
    """
    if points is None:
        return math.fsum(max(0.0, tau - ratio) for ratio in ratios) / (len(ratios) * (tau - 1))
    at = [1 + (tau - 1) * k / (points - 1) for k in range(points - 1)] + [tau]
    heights = [share_within(ratios, one) for one in at]
    parts = zip(pairwise(at), pairwise(heights), strict=True)
    return math.fsum((b - a) * (y + z) / 2 for (a, b), (y, z) in parts) / (tau - 1)


def make_profile(
    tasks: Sequence[Report], by: str, measure: str
) -> tuple[Profile | None, list[str]]:
    """The profile of those who take part in every task, the best first.

    The cost of a task is what a contestant's final runs need to its target: the median over the
    seeds, in which one that never arrives or fails is infinite.

    A task whose target everybody reaches at the first validation does not count: who is faster is
    not known there.

    Returns:
        None where there is no task with a target, or nobody takes part in all; and lines on what
        does not count, and on who has no score.
    """
    tasks = [task for task in tasks if math.isfinite(task.target)]
    notes = [
        f"no score from {printable(task.title)}: every contestant reaches "
        f"{printable(task.metric)} {task.target:g} at its first validation; validate more often, "
        "or set --target"
        for task in tasks
        if _is_reached_at_once(task)
    ]
    tasks = [task for task in tasks if not _is_reached_at_once(task)]
    found: dict[str, list[float]] = {}
    for task in tasks:
        for row in task.rows:
            own = found.setdefault(row.values[by], [])
            if row.best.value.count or row.has_failed:
                own.append(cost_of(row, task, measure))
    costs = {name: own for name, own in found.items() if len(own) == len(tasks)}
    without = [printable(name) for name in found if name not in costs]
    if costs and without:
        notes.append(f"no score, without final runs at every task: {', '.join(without)}")
    if not costs:
        return None, notes
    ratios = divide_by_best(costs)
    scores = {name: integrate_profile(own) for name, own in ratios.items()}
    names = sorted(scores, key=lambda name: -scores[name])
    return Profile(names, ratios, scores, measure, TAU), notes


def _is_reached_at_once(task: Report) -> bool:
    """Whether every run that counts reaches the target at the first step that it has measured."""
    runs = [run for row in task.rows for run in row.best.runs]
    return not any(row.has_failed for row in task.rows) and all(
        steps_of(run, task.target, task.mode) == min(run.history.step, default=math.nan)
        for run in runs
    )


def cost_of(row: Row, task: Report, measure: str) -> float:
    """What a contestant needs to the target of a task; inf if half of its final runs do not arrive.

    A run that failed has not arrived, unlike in the table, where it does not count.
    """
    if row.has_failed:
        return math.inf
    costs = [
        steps_of(run, task.target, task.mode, measure) if run.has_ended else math.inf
        for run in row.best.runs
        if run.has_ended or run.status is Status.FAILED
    ]
    return median([cost for cost in costs if not math.isnan(cost)])
