"""Reads `history.csv`, also while it is being written."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from lit_optim.results.data import History
from lit_optim.runs.layout import HISTORY_COLUMNS
from lit_optim.untrusted import Unreadable, read_text

MOST_STEPS = 1 << 62


def read_history(path: Path, notes: list[str]) -> History:
    """Read the validations of a run, up to the first line that cannot be read.

    A last line without its end is being written, and is left out.

    Args:
        path: of the file.
        notes: gets a line about a damaged one.

    Raises:
        Unreadable: it cannot be read, or is no history.
    """
    text = read_text(path)
    whole, _, _ = text.rpartition("\n")
    try:
        header, *lines = csv.reader(whole.splitlines(), strict=True)
    except ValueError:  # not even a header yet
        return History()
    except csv.Error:
        raise Unreadable(f"{path}: is not valid CSV") from None
    names = header[len(HISTORY_COLUMNS) :]
    if tuple(header[: len(HISTORY_COLUMNS)]) != HISTORY_COLUMNS or len(set(names)) < len(names):
        raise Unreadable(f"{path}: must have the columns {','.join(HISTORY_COLUMNS)}, then metrics")
    rows = []
    for number, line in enumerate(lines, 2):
        row = _numbers(line, len(header))
        if row is None:
            notes.append(
                f"{path}:{number}: is not a line of numbers; only the lines above it are used"
            )
            break
        rows.append(row)
    if not rows:
        return History()
    step, seconds, evaluations, lr, *metrics = zip(*rows, strict=True)
    steps = [int(value) for value in step]
    return History(steps, seconds, evaluations, lr, dict(zip(names, metrics, strict=True)))


def _numbers(line: list[str], width: int) -> list[float] | None:
    """The numbers of a line, an empty cell as NaN; None if it is none of a history."""
    if len(line) != width:
        return None
    try:
        row = [float(cell) if cell else math.nan for cell in line]
    except ValueError:
        return None
    return row if row[0].is_integer() and 0 <= row[0] < MOST_STEPS else None
