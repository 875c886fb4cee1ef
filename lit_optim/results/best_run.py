"""The best run of a choice: the same for the page and for `lit-optim best`."""

from __future__ import annotations

import math

from lit_optim.metric_names import pick
from lit_optim.results.data import Row, Run
from lit_optim.runs.status import Status


def find_best(row: Row, mode: str) -> Run | None:
    """Return the best of the runs of a row's best setting that went to their end.

    A run that diverged, failed or goes on may have a value, but that is not its result.

    Args:
        row: of a report.
        mode: `min` or `max`.

    Returns:
        None: there is no such run.
    """
    done = [
        run
        for run in row.best.runs
        if run.has_ended and run.status is not Status.DIVERGED and math.isfinite(run.value)
    ]
    best: Run | None = pick(mode)(done, key=lambda run: run.value, default=None)
    return best
