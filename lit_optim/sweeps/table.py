"""The table at the end of a multirun: best first, seeds averaged, failures with their log."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, filter_overrides
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_optim.config.resume import LOG, RECORD
from lit_optim.sweeps.launcher import describe_exit
from lit_optim.tensorboard import open_command


@dataclass
class Ended:
    """A job of the sweep; without a result it failed."""

    overrides: dict[str, str]
    run_dir: Path
    exit_code: int
    result: dict[str, Any] | None


class SweepTable(Callback):
    """Hydra callback: prints the table; the sweep ends with code 1 if any job failed."""

    def __init__(self) -> None:
        self.ended: list[Path] = []  # the directories of this start's jobs

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Called by our launcher."""
        self.ended.append(Path(str(job_return.working_dir)))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra."""
        sweep_dir = Path(config.hydra.sweep.dir)
        jobs = read_jobs(sweep_dir)
        lost = [run_dir for run_dir in sorted(self.ended) if not (run_dir / RECORD).exists()]
        if not jobs and not lost:
            return  # another launcher's
        console = Console()
        if jobs:
            console.print(table(jobs))
        console.print(f"curves: {open_command(sweep_dir)}", soft_wrap=True)
        failed = [job for job in jobs if job.exit_code != 0]
        for job in failed:
            _print_failure(console, job.run_dir, describe_exit(job.exit_code))
        for run_dir in lost:
            _print_failure(console, run_dir, "how it ended could not be written: a full disk?")
        if failed or lost:
            raise SystemExit(1)


def _print_failure(console: Console, run_dir: Path, how: str) -> None:
    log = run_dir / LOG
    console.print(f"{run_dir.name}: {how}; {log}", soft_wrap=True, markup=False, style="red")
    console.print(f"  {_last_line(log)}", soft_wrap=True, markup=False)


def read_jobs(sweep_dir: Path) -> list[Ended]:
    """The jobs of our launcher in a sweep's directory, by name."""
    jobs = []
    for record in sorted(sweep_dir.glob(f"*/{RECORD}")):
        job = json.loads(record.read_text("utf-8"))
        pairs = [o.lstrip("+~").partition("=") for o in filter_overrides(job["overrides"])]
        result = record.with_name("result.json")
        read = None
        if result.exists() and job["exit_code"] == 0:
            read = json.loads(result.read_text("utf-8"))
        overrides = {key: value for key, _, value in pairs if key != "n_jobs"}
        jobs.append(Ended(overrides, record.parent, job["exit_code"], read))
    return jobs


def table(jobs: list[Ended]) -> Table:
    """A row for each combination of what was swept, over its seeds, best first."""
    keys = [k for k in jobs[0].overrides if len({job.overrides.get(k) for job in jobs}) > 1]
    keys = [k for k in keys if k != "seed"] or [k for k in jobs[0].overrides if k != "seed"][:1]
    done = [job.result for job in jobs if job.result]
    monitor = done[0]["monitor"] if done else "val/loss"
    largest_first = bool(done) and done[0]["mode"] == "max"
    tests = sorted({name for result in done for name in result["test"]})
    same = monitor.rpartition("/")[2]  # one test metric is enough where it is the one of monitor
    tests = [name for name in tests if name.endswith(f"/{same}")] or tests

    rows = defaultdict(list)
    for job in jobs:
        rows[tuple(job.overrides.get(key, "") for key in keys)].append(job)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in keys:
        drawn.add_column(key, no_wrap=True)
    for name in (f"best\n{monitor}", f"final\n{monitor}", *tests, "runs", "seconds"):
        drawn.add_column(name, overflow="fold")

    def score(item: tuple[tuple[str, ...], list[Ended]]) -> tuple[bool, float]:
        values = _values(item[1], "best", monitor)
        mean = statistics.fmean(values) if values else math.nan
        if not math.isfinite(mean):
            return True, 0.0  # what failed or diverged comes last
        return False, -mean if largest_first else mean

    for combination, group in sorted(rows.items(), key=score):
        finished = [job for job in group if job.result]
        drawn.add_row(
            *map(escape, combination),
            _mean(_values(group, "best", monitor)),
            _mean(_values(group, "final", monitor)),
            *(_mean(_values(group, "test", name)) for name in tests),
            str(len(group)) if len(finished) == len(group) else f"{len(finished)} of {len(group)}",
            _mean([job.result["seconds"] for job in finished if job.result], digits=1),
            style="" if finished else "red",
        )
    return drawn


def _values(jobs: list[Ended], stage: str, metric: str) -> list[float]:
    return [job.result[stage][metric] for job in jobs if job.result and metric in job.result[stage]]


def _mean(values: list[float], digits: int = 4) -> str:
    """Mean; with several values also their standard deviation, and a digit less."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits - 1}f} ±{statistics.stdev(values):.{digits - 1}f}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "(it printed nothing)"
