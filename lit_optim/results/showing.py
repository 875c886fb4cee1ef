"""Shows what came out of runs: tables in the terminal, and files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lit_optim.errors import UsageError, first_line, how_many, printable
from lit_optim.printing import Console
from lit_optim.programs import format_path
from lit_optim.results.comparing import compare, compare_all
from lit_optim.results.contest import compare_tournaments
from lit_optim.results.data import Report, Run, Tournament
from lit_optim.results.figure_files import (
    PICTURES,
    check_figures,
    write_all_figures,
    write_figures,
    write_profile,
)
from lit_optim.results.grouping import setting_of
from lit_optim.results.reading import Found, NoRun, read_runs
from lit_optim.results.spreadsheet import write_runs
from lit_optim.results.table import print_report, print_tournament
from lit_optim.results.target import AUTO
from lit_optim.runs.layout import MULTIRUN, REPORT, SEARCH, SWEEP
from lit_optim.runs.status import Status

ENDINGS = (".html", ".csv", *PICTURES)
#: The files of a directory, besides the figures.
RUNS = "runs.csv"


def show_results(directory: Path, console: Console) -> None:
    """Print a table of a run, a sweep or all runs below a directory, best first.

    Runs that are judged by different metrics have a table each. So do those on different data where
    the directory is not that of one sweep; runs that failed without a value are then listed only.

    Raises:
        UsageError: there is no run in it.
    """
    found = read_runs([directory])
    title = title_of([directory])
    is_one = any((directory / name).exists() for name in (SWEEP, MULTIRUN, SEARCH))
    parts = {title: found} if is_one else _by_data(found, title)
    for of_part, part in parts.items():
        if len(parts) > 1:
            console.print(of_part, style="bold", soft_wrap=True, markup=False, highlight=False)
        for shown in _compare_all(part, of_part):
            _print(shown, console)
    for run in found.runs:
        if run.status.has_failed or run.status.is_unfinished:
            line = f"no result: {format_path(run.directory)} ({run.status.value})"
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def _by_data(found: Found, title: str) -> dict[str, Found]:
    """The runs on each data set, by a title; those that failed without a value only if all did."""
    runs = [
        run
        for run in found.runs
        if run.status is not Status.FAILED or run.history.step or math.isfinite(run.value)
    ]
    by_data: dict[str, list[Run]] = {}
    for run in runs or found.runs:
        data = run.choices.get("data", "")
        if data == "custom":
            data = setting_of(run, "data._target_") or data
        by_data.setdefault(data, []).append(run)
    if len(by_data) == 1:
        return {title: Found(runs or found.runs, found.notes)}
    ordered = sorted(by_data.items(), key=lambda part: -len(part[1]))
    return {
        f"{title}: data={data or 'unknown'}": Found(part, () if place else found.notes)
        for place, (data, part) in enumerate(ordered)
    }


def show_sweep(sweep_dir: Path, console: Console) -> None:
    """Print the tables of a sweep, and refresh the page in its directory, which is named.

    Does nothing where no run has begun.
    """
    try:
        found = read_runs([sweep_dir])
    except UsageError:
        return
    reports = _compare_all(found, title_of([sweep_dir]))
    for report in reports:
        _print(report, console)
    page = sweep_dir / REPORT
    try:
        write(reports[0], page)
        line = f"report: {format_path(page)}"
    except OSError as error:
        line = f"no report: {format_path(page)}: {error.strerror}"
    first = reports[0]
    if len(reports) > 1 and isinstance(first, Report):
        line += f" ({printable(first.metric)}; others by lit-optim report --metric)"
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _compare_all(found: Found, title: str) -> Sequence[Report | Tournament]:
    notes = list(found.notes)
    tournament = compare_tournaments(found.runs, title, notes=notes)
    return [tournament] if tournament else compare_all(found.runs, title, notes=notes)


def _print(shown: Report | Tournament, console: Console) -> None:
    if isinstance(shown, Tournament):
        print_tournament(shown, console)
    else:
        print_report(shown, console)


def title_of(directories: Sequence[Path]) -> str:
    """A few words for what is in directories."""
    names = [os.path.basename(os.path.abspath(directory)) for directory in directories]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def make_report(
    directories: Sequence[Path],
    metric: str | None = None,
    by: Sequence[str] = (),
    target: float | str | None = AUTO,
) -> Report | Tournament:
    """Read and compare all runs in and below directories.

    Returns:
        A report; of a tournament of several tasks that.

    Raises:
        UsageError: there are none, or an option does not fit them.
    """
    found: Found = read_runs(directories)
    title, notes, tournament = title_of(directories), list(found.notes), None
    if not by:  # else the reader asks for another comparison
        tournament = compare_tournaments(found.runs, title, metric, target, notes)
    return tournament or compare(found.runs, title, metric, by, target, notes)


def check_destination(path: Path) -> None:
    """Check what a report is to be written to, before anything is read.

    Raises:
        UsageError: it is neither a file of a known kind nor a directory.
    """
    if path.is_dir() or (not path.suffix and not path.exists()):
        return
    if path.suffix not in ENDINGS:
        kinds = " ".join(ENDINGS)
        raise UsageError(f"--to={path}: must end in one of {kinds}, or be a directory")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--to={path}: no such directory: {path.parent}")
    if path.suffix in PICTURES:
        check_figures(path)


def write(report: Report | Tournament, to: Path, refresh: float | None = None) -> list[Path]:
    """Write a report; each file is replaced atomically.

    A tournament of several tasks has further pages and figures, of each task.

    Args:
        report: at least one run.
        to: a page, a CSV file of the runs, figures, or a directory for all of them.
        refresh: seconds after which an open page reads itself again; None: never.

    Returns:
        The files.

    Raises:
        UsageError: nothing can be drawn.
        OSError: a file cannot be written.
    """
    if to.suffix == ".csv":
        write_runs(report, to)
    elif to.suffix == ".html":
        if isinstance(report, Tournament):
            from lit_optim.results.tournament_page import write_tournament

            return write_tournament(report, to, refresh)
        from lit_optim.results.page import write_page

        write_page(report, to, refresh)
    elif to.suffix in PICTURES and not to.is_dir():
        if isinstance(report, Tournament):
            write_profile(report, to)
        else:
            write_figures(report, to)
    else:
        to.mkdir(parents=True, exist_ok=True)
        files = [*write(report, to / REPORT, refresh), *write(report, to / RUNS)]
        with suppress(UsageError):  # nothing to draw yet
            files += write_all_figures(report, to)
        return files
    return [to]


def show(
    make: Callable[[], Report | Tournament], to: Path | None, console: Console, every: float | None
) -> int:
    """Print a report or write it, once or again and again.

    Args:
        make: reads and compares the runs.
        to: as for `write`; None: print the table.
        console: for the table, or the names of the files.
        every: seconds between two readings, until Ctrl-C; None: once.

    Returns:
        The exit code.

    Raises:
        UsageError: at the first reading, unless no run has begun yet; later ones are told, and the
            next one is tried.
        KeyboardInterrupt: Ctrl-C.
    """
    is_first = True
    while True:
        try:
            _show(make(), to, console, every)
        except UsageError as error:
            is_empty = isinstance(error, NoRun)
            if every is None or (is_first and not is_empty):
                raise
            line = "no run has begun yet" if is_empty else first_line(error)
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        if every is None:
            return 0
        is_first = False
        time.sleep(every)


def _show(
    report: Report | Tournament, to: Path | None, console: Console, every: float | None
) -> None:
    if every is not None and console.is_terminal and to is None:
        console.clear()
    if to is None:
        _print(report, console)
        return
    try:
        files = write(report, to, every)
    except OSError as error:
        raise UsageError(f"--to={to}: {error.strerror or first_line(error)}") from None
    told = f"{format_path(to)}: {how_many(len(report.runs), 'run')}"
    if len(files) > 1:
        told += f" in {len(files)} files"
    console.print(told, soft_wrap=True, markup=False, highlight=False)
    for note in report.notes:
        console.print(printable(note), soft_wrap=True, markup=False, highlight=False, style="dim")
