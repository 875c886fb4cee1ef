"""Figures as files for a paper: one column wide, with a legend, text that stays text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lit_optim.errors import UsageError
from lit_optim.results.data import Report
from lit_optim.temporary import temporary_beside

#: Each figure is written as these into a directory.
PICTURES = (".png", ".svg", ".pdf")


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


def _write(report: Report, names: Sequence[str], path: Path) -> None:
    from lit_optim.results.figures import DRAWINGS, draw_figure, drawing
    from lit_optim.results.looks import PAPER

    kinds = [kind for kind in DRAWINGS if kind.name in names]
    ending = path.suffix.lower().removeprefix(".")
    # without the date: the same figure is the same file
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    temporary = temporary_beside(path)
    try:
        with drawing(PAPER):
            figure = draw_figure(kinds, report, PAPER)
            figure.savefig(temporary, format=ending, metadata=dates[ending])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
