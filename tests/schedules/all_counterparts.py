"""Every schedule with its counterparts, from the tables of this directory."""

from __future__ import annotations

from tests.schedules.counterparts import ROWS as LIBRARY
from tests.schedules.counterparts import Row
from tests.schedules.counterparts_by_name import TORCH, TRANSFORMERS
from tests.schedules.counterparts_of_papers import PAPERS

TABLES = (LIBRARY, TRANSFORMERS, TORCH, PAPERS)
ROWS: dict[str, list[Row]] = {
    name: [row for table in TABLES for row in table.get(name, [])]
    for name in LIBRARY | TRANSFORMERS | TORCH | PAPERS
}


def first_row(name: str, length: int) -> Row:
    """The first counterpart of a schedule that can be compared over a run of this length."""
    return next(row for row in ROWS[name] if length >= row.shortest and length % row.multiple == 0)
