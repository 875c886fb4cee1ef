"""Figures as files for a paper: one column wide, with a legend, text that stays text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_optim.errors import UsageError
from lit_optim.results.data import Report, Tournament
from lit_optim.results.overview import task_words
from lit_optim.system import replace_file
from lit_optim.temporary import temporary_beside

#: Each figure is written as these into a directory.
PICTURES = (".png", ".svg", ".pdf")
#: The figure of a tournament of several tasks.
PROFILE = "profile"


def check_figures(path: Path) -> None:
    """Check that figures can be drawn.

    Raises:
        UsageError: matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise UsageError(f"--to={path}: needs matplotlib: pip install matplotlib")


def write_figures(report: Report, path: Path) -> None:
    """Write figures into one file, atomically.

    A file that has the name of a figure, such as `curves.pdf`, gets that one; any other gets all
    that can be drawn, below each other.

    Args:
        report: what they show.
        path: ends in .pdf, .png or .svg.

    Raises:
        UsageError: the report has nothing that can be drawn.
        OSError: it cannot be written.
    """
    from lit_optim.results.figures import DRAWINGS

    named = [drawing for drawing in DRAWINGS if drawing.name == path.stem]
    kinds = [drawing for drawing in named or DRAWINGS if not drawing.miss(report)]
    if not kinds:
        why = (named or list(DRAWINGS))[0].miss(report)
        raise UsageError(f"--to={path}: there is nothing to draw; it needs {why}")
    _write(report, [drawing.name for drawing in kinds], path)


def write_figure_files(report: Report, directory: Path) -> list[Path]:
    """Write each figure that can be drawn as .pdf, .svg and .png.

    Args:
        report: what they show.
        directory: exists.

    Returns:
        The files.

    Raises:
        OSError: one cannot be written.
    """
    from lit_optim.results.figures import DRAWINGS

    written = []
    for drawing in DRAWINGS:
        if not drawing.miss(report):
            files = [directory / f"{drawing.name}{ending}" for ending in PICTURES]
            for file in files:
                _write(report, [drawing.name], file)
            written += files
    return written


def write_all_figures(report: Report | Tournament, directory: Path) -> list[Path]:
    """Write each figure of a report; of a tournament its profile, and a directory for each task.

    Args:
        report: what they show.
        directory: exists.

    Returns:
        The files.

    Raises:
        OSError: one cannot be written.
    """
    if isinstance(report, Report):
        return write_figure_files(report, directory)
    written = []
    for task, word in zip(report.tasks, task_words(report), strict=True):
        (directory / word).mkdir(exist_ok=True)
        written += write_figure_files(task, directory / word)
    if report.profile is not None:
        files = [directory / f"{PROFILE}{ending}" for ending in PICTURES]
        for file in files:
            write_profile(report, file)
        written += files
    return written


def write_profile(tournament: Tournament, path: Path) -> None:
    """Write the performance profile of a tournament into a file, atomically.

    Args:
        tournament: of several tasks.
        path: ends in .pdf, .png or .svg.

    Raises:
        UsageError: no task has a target.
        OSError: it cannot be written.
    """
    from lit_optim.results.figures import HEIGHT
    from lit_optim.results.looks import PAPER
    from lit_optim.results.profile_figure import draw_profile_figure

    profile = tournament.profile
    if profile is None:
        raise UsageError(f"--to={path}: there is nothing to draw; no task has a target")
    _save(lambda: draw_profile_figure(profile, PAPER, HEIGHT), path)


def _write(report: Report, names: Sequence[str], path: Path) -> None:
    from lit_optim.results.figures import DRAWINGS, draw_figure
    from lit_optim.results.looks import PAPER

    kinds = [kind for kind in DRAWINGS if kind.name in names]
    _save(lambda: draw_figure(kinds, report, PAPER), path)


def _save(draw: Callable[[], Any], path: Path) -> None:
    """Save a figure for a paper."""
    from lit_optim.results.figures import drawing
    from lit_optim.results.looks import PAPER

    ending = path.suffix.lower().removeprefix(".")
    # without the date: the same figure is the same file
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    temporary = temporary_beside(path)
    try:
        with drawing(PAPER):
            figure = draw()
            figure.savefig(temporary, format=ending, metadata=dates[ending])
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
