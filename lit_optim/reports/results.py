"""`lit-optim results`: a table of runs, read from their directories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from lit_optim.errors import UsageError
from lit_optim.programs import format_path
from lit_optim.runs.layout import FINGERPRINT, JOB, RESULT
from lit_optim.runs.status import Status
from lit_optim.sweeps.records import JobRecord, overrides_of, read_job
from lit_optim.sweeps.rows import Ended, ended_run
from lit_optim.sweeps.table import table
from lit_optim.untrusted import walk

#: Files that mark the directory of a run.
MARKS = {FINGERPRINT, RESULT, JOB}


def show_results(directory: Path, console: Console) -> None:
    """Print a table of a run, a sweep or all runs below a directory, best first.

    Raises:
        UsageError: there is no run in it.
    """
    runs = list(find_runs(directory))
    if not runs:
        raise UsageError(f"{directory}: contains no run")
    table(runs).print(console)
    unfinished = [run for run in runs if run.result is None]
    for run in unfinished:
        console.print(
            f"no result: {format_path(run.run_dir)}",
            soft_wrap=True, markup=False, highlight=False,
        )  # fmt: skip


def find_runs(directory: Path) -> Iterator[Ended]:
    """Find the runs in and below a directory, by name, even inside of another run.

    Hidden directories and links are left out.

    Raises:
        UsageError: it is not a directory.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: is not a directory")
    for path, entries in walk(directory):
        if any(entry.name in MARKS and not entry.is_dir() for entry in entries):
            yield read_run(path)


def read_run(run_dir: Path) -> Ended:
    """Read a run from its directory, whether or not it belongs to a sweep."""
    record = read_job(run_dir)
    if record is None:
        ended_well = (run_dir / RESULT).is_file()
        status = Status.COMPLETED if ended_well else Status.UNKNOWN
        record = JobRecord(list(overrides_of(run_dir) or ()), None, {}, status)
    return ended_run(run_dir, record)
