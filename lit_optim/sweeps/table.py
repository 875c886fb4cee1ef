"""Prints the table at the end of a sweep: best first, averaged over seeds, with failures."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from lit_optim.errors import escape, printable
from lit_optim.printing import WholeTable
from lit_optim.programs import open_command
from lit_optim.runs.layout import JOB, LOG
from lit_optim.sweeps.jobs import describe_exit
from lit_optim.sweeps.records import parse_job
from lit_optim.sweeps.rows import Ended, Row, ended_run, group_runs
from lit_optim.untrusted import Unreadable

TAIL_BYTES = 1 << 16


class SweepTable(Callback):
    """Hydra callback: prints the table; the sweep ends with code 1 if any job failed."""

    def __init__(self) -> None:
        self.ended: list[Path] = []  # the directories of the jobs of this start

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Called by `ProcessLauncher`."""
        self.ended.append(Path(str(job_return.working_dir)))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra."""
        sweep_dir = Path(config.hydra.sweep.dir)
        console = Console()
        jobs = list(_jobs(sweep_dir, console))
        lost = [run_dir for run_dir in sorted(self.ended) if not (run_dir / JOB).exists()]
        if not jobs and not lost:
            return  # the sweep of another launcher
        if jobs:
            table(jobs).print(console)
        curves = f"curves: {open_command(sweep_dir)}"
        console.print(curves, soft_wrap=True, markup=False, highlight=False)
        failed = [job for job in jobs if job.exit_code != 0]
        for job in failed:
            _print_failure(console, job.run_dir, describe_exit(job.exit_code or 0))
        for run_dir in lost:
            _print_failure(console, run_dir, "how it ended could not be written: a full disk?")
        if failed or lost:
            raise SystemExit(1)


def _print_failure(console: Console, run_dir: Path, how: str) -> None:
    log = run_dir / LOG
    message = escape(f"{run_dir.name}: {how}; {log}")
    console.print(message, soft_wrap=True, markup=False, style="red")
    console.print(f"  {_last_line(log)}", soft_wrap=True, markup=False, highlight=False)


def read_jobs(sweep_dir: Path) -> list[Ended]:
    """Return the jobs in a sweep's directory by name, without unreadable ones."""
    return list(_jobs(sweep_dir))


def _jobs(sweep_dir: Path, console: Console | None = None) -> Iterator[Ended]:
    for record in sorted(sweep_dir.glob(f"*/{JOB}")):
        try:
            yield ended_run(record.parent, parse_job(record.parent))
        except Unreadable as error:
            if console is not None:
                message = f"left out: {printable(str(error))}"
                console.print(message, soft_wrap=True, markup=False, highlight=False)


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


def _last_line(log: Path) -> str:
    """Return the last line that a job printed; a log may be long."""
    try:
        if not log.is_file():  # opening a FIFO would wait
            return "(there is no log)"
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES), os.SEEK_SET)
            text = file.read(TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        return f"(its log cannot be read: {error.strerror})"
    lines = [line for line in text.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "(it printed nothing)"
