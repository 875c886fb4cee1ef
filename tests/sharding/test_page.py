"""The code and the table of docs/sharding.md."""

from __future__ import annotations

import pytest

from tests.documents import BLOCKS
from tests.sharding.matrix import NAMES
from tests.sharding.processes import processes
from tests.sharding.scripts import run_blocks
from tests.sharding.table import COLUMNS, read_cells, script

#: Page and number of processes -> the blocks that so many run, in their order.
ON_PROCESSES: dict[tuple[str, int], list[tuple[str, str]]] = {}
for _block in BLOCKS:
    if _block.processes:
        key = _block.page, _block.processes
        ON_PROCESSES.setdefault(key, []).append((str(_block), _block.code))


def test_there_are_blocks():
    assert {page for page, _ in ON_PROCESSES} >= {"docs/sharding.md"}


@pytest.mark.parametrize(("page", "number"), ON_PROCESSES)
def test_code_for_several_processes_runs(page, number, tmp_path):
    processes(number).run(run_blocks, ON_PROCESSES[page, number], str(tmp_path))


def test_every_optimizer_and_wrapper_has_a_row():
    """Written by scripts/sharding.py; the tests of the matrix compare its cells."""
    cells = read_cells()
    assert [name for name in cells if not name.startswith("wrapper=")] == NAMES
    assert {name for name in cells if name.startswith("wrapper=")} == {
        "wrapper=ema",
        "wrapper=lookahead",
        "wrapper=sam",
    }
    assert all(set(row) == set(COLUMNS) for row in cells.values())


@pytest.mark.parametrize(
    ("kinds", "cell"),
    [
        ({"plain": "equal", "late": "skipped"}, "yes"),
        ({"plain": "equal", "int8 states": "excepted"}, "yes"),
        ({"plain": "refused", "late": "refused"}, "no"),
        ({"plain": "equal", "late": "refused"}, "yes, but not with late"),
    ],
)
def test_a_cell_says_what_was_found(kinds, cell):
    from tests.sharding.matrix import Place

    results = {Place("adamw", "ddp of 2", scenario): kind for scenario, kind in kinds.items()}
    assert script.judge_cell(results) == cell
