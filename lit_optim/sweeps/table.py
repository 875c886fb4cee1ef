"""Makes the table at the end of a sweep: best first, averaged over seeds, with failures."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from lit_optim.errors import printable
from lit_optim.printing import WholeTable
from lit_optim.runs.layout import JOB
from lit_optim.sweeps.records import read_job
from lit_optim.sweeps.rows import Ended, Row, ended_run, group_runs


class SweepTable(Callback):
    """Does nothing: a configuration of an earlier version names it."""

    def __init__(self, **_: Any) -> None:
        pass


def read_jobs(sweep_dir: Path) -> list[Ended]:
    """Return the jobs in a sweep's directory by name, without unreadable ones."""
    found = [path.parent for path in sorted(sweep_dir.glob(f"*/{JOB}"))]
    records = [(run_dir, read_job(run_dir)) for run_dir in found]
    return [ended_run(run_dir, record) for run_dir, record in records if record is not None]


def table(jobs: list[Ended]) -> WholeTable:
    """Return a row for each combination of settings, averaged over seeds, best first."""
    keys, rows = group_runs(jobs)
    judged = Counter(
        (job.result["monitor"], job.result["mode"]) for job in jobs if job.result is not None
    )
    monitors = dict(judged.most_common()) or {("val/loss", "min"): 0}
    names = list(dict.fromkeys(monitor for monitor, _ in monitors))
    tests = sorted({name for job in jobs if job.result for name in job.result["test"]})
    same = {name.rpartition("/")[2] for name in names}  # the tests of monitored metrics are enough
    tests = [name for name in tests if name.rpartition("/")[2] in same] or tests
    stages_of = [f"{stage}\n{printable(name)}" for name in names for stage in ("best", "final")]
    header = [*map(printable, keys), *stages_of, *map(printable, tests), "runs", "seconds"]

    def order(row: Row) -> tuple[int, bool, float]:
        for place, (monitor, mode) in enumerate(monitors):
            values = _values(row.runs, "best", monitor)
            if values:
                mean = statistics.fmean(values)
                # diverged runs come last
                score = (-mean if mode == "max" else mean) if math.isfinite(mean) else 0.0
                return place, not math.isfinite(mean), score
        return len(monitors), True, 0.0  # as do failed runs

    rows.sort(key=order)
    lines, styles = [], []
    for row in rows:
        finished = [job.result for job in row.runs if job.result]
        count, of = len(finished), len(row.runs)
        stages = [_values(row.runs, stage, name) for name in names for stage in ("best", "final")]
        lines.append(
            [
                *(printable(cell) for cell in row.cells),
                *map(_mean, stages),
                *(_mean(_values(row.runs, "test", name)) for name in tests),
                str(of) if count == of else f"{count} of {of}",
                _mean([result["seconds"] for result in finished], digits=1),
            ]
        )
        styles.append("" if finished else "red")
    return WholeTable(header, lines, len(keys), styles)


def _values(jobs: list[Ended], stage: str, metric: str) -> list[float]:
    return [job.result[stage][metric] for job in jobs if job.result and metric in job.result[stage]]


def _mean(values: list[float], digits: int = 4) -> str:
    """Format a mean; of several values with one digit less and their standard deviation."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    spread = statistics.stdev(values) if math.isfinite(mean) else math.nan
    digits = max(1, digits - 1)
    return f"{mean:.{digits}f} ±{spread:.{digits}f}"
