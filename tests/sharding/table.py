"""The table of docs/sharding.md, which scripts/sharding.py writes."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from tests.conftest import ROOT

_spec = spec_from_file_location("scripts_sharding", ROOT / "scripts" / "sharding.py")
assert _spec is not None
assert _spec.loader is not None
script: Any = module_from_spec(_spec)
_spec.loader.exec_module(script)
COLUMNS: dict[str, tuple[str, ...]] = script.COLUMNS


def read_cells() -> dict[str, dict[str, str]]:
    """What the page says, by optimizer or wrapper and by column."""
    return {
        name: dict(zip(COLUMNS, [cell.strip() for cell in row.split("|")[2:-1]], strict=True))
        for name, row in script.read_rows().items()
    }


def column_of(layout: str) -> str:
    """The column of a layout."""
    [column] = [column for column, starts in COLUMNS.items() if layout.startswith(starts)]
    return column
