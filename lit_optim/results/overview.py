"""A tournament of several tasks: its standings, and the names of its files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_optim.results.cells import NONE, Cell, Heading, Table, format_interval
from lit_optim.results.data import Row, Tournament

#: What no file is named with.
UNFIT = re.compile(r"[^\w.=+-]+")


def standings(tournament: Tournament) -> Table:
    """A row for each contestant, best first: its score, and its value and rank at each task."""
    rows = rows_of(tournament)
    header = [Heading(tournament.by)]
    cells = [[Cell(name)] for name in rows]
    if profile := tournament.profile:
        meaning = "the area below the performance profile: 1 is the fastest at every task"
        header.append(Heading("score", meaning, True))
        for name, row in zip(rows, cells, strict=True):
            score = profile.scores.get(name)
            row.append(Cell(NONE) if score is None else Cell(f"{score:.3f}", score))
    for place, (task, report) in enumerate(zip(tournament.names, tournament.tasks, strict=True)):
        header.append(
            Heading(f"{task} rank", "=: not distinguishable from others of this rank", True)
        )
        header.append(Heading(f"{task} {report.metric}", "the mean over the final runs", True))
        for name, row in zip(rows, cells, strict=True):
            row += _at_task(rows[name].get(place))
    return Table(header, cells, 1)


def _at_task(row: Row | None) -> tuple[Cell, Cell]:
    """The rank and the value of a contestant at a task."""
    if row is None or row.rank is None:
        return Cell(NONE), Cell("failed" if row and row.has_failed else NONE, math.nan)
    value = row.best.value
    rank = Cell(f"{row.rank}{'=' if row.is_tied else ''}", row.rank)
    return rank, Cell(format_interval(value), value.mean)


def rows_of(tournament: Tournament) -> Mapping[str, Mapping[int, Row]]:
    """The rows of each contestant by the place of the task; the contestants are best first.

    By their scores; those without one follow, by their ranks.
    """
    found: dict[str, dict[int, Row]] = {}
    for place, task in enumerate(tournament.tasks):
        for row in task.rows:
            found.setdefault(row.values[tournament.by], {})[place] = row
    known = list(tournament.profile.contestants) if tournament.profile else []
    rest = [name for name in found if name not in known]
    last = 1 + max(len(task.rows) for task in tournament.tasks)
    rest.sort(key=lambda name: _mean_rank(found[name], last))
    return {name: found[name] for name in (*known, *rest)}


def _mean_rank(rows: Mapping[int, Row], last: int) -> float:
    return sum(row.rank or last for row in rows.values()) / len(rows)


def task_words(tournament: Tournament) -> list[str]:
    """A word for each task that a file can be named after: `data=digits`."""
    words = [UNFIT.sub("_", name)[:100] for name in tournament.names]
    folded = [word.casefold().rstrip(". ") for word in words]  # as some file systems see them
    return [
        word if same and folded.count(same) == 1 else f"{word or 'task'}-{place}"
        for place, (word, same) in enumerate(zip(words, folded, strict=True))
    ]


def task_files(tournament: Tournament, path: Path) -> list[Path]:
    """The files of the tasks beside one of the tournament: `report-data=digits.html`."""
    words = task_words(tournament)
    return [path.with_name(f"{path.stem}-{word}{path.suffix}") for word in words]


def name_contestants(names: Sequence[str], most: int) -> str:
    """The first names, and how many others there are."""
    told = ", ".join(names[:most])
    return f"{told} and {len(names) - most} more" if len(names) > most else told
