"""`log.txt` in the directory of a run: what it logs, its warnings, its summary and its end."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lit_optim.printing import Console, print_pairs
from lit_optim.runs.layout import LOG

LOGGED = logging.getLogger("lit_optim")
#: What is printed to the terminal by other means, for the file alone.
FILE_ONLY = logging.getLogger("lit_optim.log_file")
FILE_ONLY.propagate = False
FILE_ONLY.addHandler(logging.NullHandler())
#: The columns of the summary.
WIDTH = 120


@contextmanager
def logging_to_file(run_dir: Path) -> Iterator[None]:
    """Within it, write everything that is logged into the log of a run, and the warnings.

    Our launcher lets a job print into this file, which then has everything already. Where the file
    cannot be written, a warning says so.
    """
    path = run_dir / LOG
    handler = None if _prints_into(path) else _open(path)
    if handler is None:
        yield
        return
    root, level = logging.getLogger(), FILE_ONLY.level
    show: Any = warnings.showwarning

    def show_and_note(message: Any, category: Any, name: str, line: int, *more: Any) -> None:
        show(message, category, name, line, *more)
        FILE_ONLY.info(warnings.formatwarning(message, category, name, line).rstrip())

    FILE_ONLY.setLevel(logging.INFO)
    for logger in (root, FILE_ONLY):
        logger.addHandler(handler)
    noting: Any = show_and_note
    warnings.showwarning = noting
    try:
        yield
    finally:
        for logger in (root, FILE_ONLY):
            logger.removeHandler(handler)
        FILE_ONLY.setLevel(level)
        if warnings.showwarning is noting:
            warnings.showwarning = show
        with suppress(OSError):  # a full disk
            handler.close()


def print_summary(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values to the terminal, and into the log of the run."""
    print_pairs(Console(), rows)
    text = io.StringIO()
    print_pairs(Console(file=text, width=WIDTH), rows)
    FILE_ONLY.info(text.getvalue().strip("\n"))


class _Quiet(logging.FileHandler):
    """A file that falls silent where the disk is full, as a log must not end a training."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _open(path: Path) -> logging.FileHandler | None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        # opening a FIFO would wait, and a link leads elsewhere
        LOGGED.warning(f"{path}: is not a regular file; nothing is logged there")
        return None
    try:
        handler = _Quiet(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        LOGGED.warning(f"{path}: {error.strerror}: nothing is logged there")
        return None
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _prints_into(path: Path) -> bool:
    """Whether stdout is this file."""
    try:
        return os.path.samestat(os.fstat(1), os.stat(path))
    except OSError:
        return False
