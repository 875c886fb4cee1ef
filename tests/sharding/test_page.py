"""The code and the table of docs/sharding.md."""

from __future__ import annotations

import pytest

from tests.documents import BLOCKS
from tests.sharding.processes import processes
from tests.sharding.scripts import run_blocks

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
