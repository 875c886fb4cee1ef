"""The end of a sweep, whatever its launcher: the table, what failed, and where to look."""

from __future__ import annotations

import os
from pathlib import Path

from lit_optim.errors import escape, first_line, printable
from lit_optim.printing import Console
from lit_optim.programs import open_command
from lit_optim.results.reading import find_runs
from lit_optim.results.showing import show_sweep
from lit_optim.runs.job import JobRecord, read_job
from lit_optim.runs.layout import JOB, LOG, SEARCH
from lit_optim.runs.locks import is_held
from lit_optim.runs.status import Status
from lit_optim.sweeps.describing import describe_job
from lit_optim.sweeps.records import planned_jobs

TAIL_BYTES = 1 << 16


def end_sweep(sweep_dir: Path, console: Console | None = None) -> bool:
    """Print the table of a sweep, its failures with the last lines of their logs, and its curves.

    Returns:
        Whether a job has failed. A run that diverged has not: that is a result.
    """
    console = console or Console()
    found = _read(sweep_dir)
    lost = [run_dir for run_dir in _find_planned(sweep_dir) if _is_lost(run_dir)]
    if not found and not lost:
        return False  # nothing has begun, and Hydra has said why
    try:
        show_sweep(sweep_dir, console)
    except Exception as error:  # what has failed is told in any case
        has_any = any(record.is_done for record in found.values())
        _print(console, f"no report: {first_line(error) if has_any else 'no run has a result'}")
    failed = {
        run_dir: record
        for run_dir, record in found.items()
        if not record.is_done and not (_is_search(sweep_dir) and is_held(run_dir))
    }
    for run_dir, record in failed.items():
        how, said = describe_job(record), ""
        if record.status == Status.RUNNING:
            how = "still running" if is_held(run_dir) else Status.KILLED.value
        elif record.status == Status.FAILED and record.message != how:
            said = record.message
        _print_failure(console, sweep_dir, run_dir, how, said)
    for run_dir in lost:
        _print_failure(
            console, sweep_dir, run_dir, "how it ended could not be written: a full disk?"
        )
    _print(console, f"curves: {open_command(sweep_dir)}")
    return bool(failed or lost)


def _read(sweep_dir: Path) -> dict[Path, JobRecord]:
    """The jobs in the directory of a sweep, by name."""
    if _is_search(sweep_dir):
        run_dirs = find_runs(sweep_dir)
    else:
        run_dirs = [path.parent for path in sorted(sweep_dir.glob(f"*/{JOB}"))]
    records = {run_dir: read_job(run_dir) for run_dir in run_dirs}
    return {run_dir: record for run_dir, record in records.items() if record is not None}


def _is_search(sweep_dir: Path) -> bool:
    """Whether the runs are those of trials, in directories of their own; others may run some."""
    return (sweep_dir / SEARCH).exists()


def _find_planned(sweep_dir: Path) -> list[Path]:
    if not _is_search(sweep_dir):
        return [sweep_dir / name for name in planned_jobs(sweep_dir)]
    return [run_dir for run_dir in find_runs(sweep_dir) if not is_held(run_dir)]


def _is_lost(run_dir: Path) -> bool:
    """Whether a job has been started and has left no word."""
    return (run_dir / LOG).exists() and not (run_dir / JOB).exists()


def _print_failure(
    console: Console, sweep_dir: Path, run_dir: Path, how: str, said: str = ""
) -> None:
    """Print how a run failed, and what it said last."""
    log = run_dir / LOG
    message = escape(f"{run_dir.relative_to(sweep_dir)}: {how}; {log}")
    console.print(message, soft_wrap=True, markup=False, style="red")
    _print(console, f"  {printable(said) or f'last line of its log: {last_line(log)}'}")


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def last_line(log: Path) -> str:
    """The last line that a job printed; a log may be long."""
    try:
        if not log.is_file():  # opening a FIFO would wait
            return "(no log)"
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES), os.SEEK_SET)
            text = file.read(TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        return f"(its log cannot be read: {error.strerror})"
    lines = [line for line in text.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "(it printed nothing)"
