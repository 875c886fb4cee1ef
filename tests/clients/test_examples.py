"""Each script of examples/ is short, trains, and ends where its schedule ends."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.clients.conftest import skip_without_client
from tests.conftest import ROOT
from tests.sharding.processes import processes
from tests.sharding.scripts import run_script

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CLIENTS = sorted((ROOT / "docs/clients").glob("*.md"))
PAGES = [*CLIENTS, ROOT / "docs/sharding.md"]
MOST_LINES = 30
#: The lr at the end, as a share of the peak, at which a schedule has reached its floor.
FLOOR = 1e-3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_page_names_the_example(path: Path):
    assert any(f"`examples/{path.name}`" in page.read_text("utf-8") for page in PAGES)


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.stem)
def test_the_index_has_the_page(path: Path):
    index = path.with_name("index.md")
    assert path == index or f"]({path.name})" in index.read_text("utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains(path: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path)])
    torch.manual_seed(0)
    if "torchrun" in path.read_text("utf-8"):
        runs = processes(2).run(run_example, str(path))
    else:
        runs = [run_example(str(path))]
    for first, last, rates in runs:
        assert math.isfinite(first)
        assert last < first
        for scheduled, lr, initial in rates:
            assert scheduled == lr
            assert initial > 0
            assert lr <= FLOOR * initial


def run_example(path: str) -> tuple[float, float, list[tuple[float, float, float]]]:
    """The loss before and after, and the lrs at the end: the schedule's, the group's, the peak."""
    try:
        names = run_script(path)
    except ModuleNotFoundError as error:
        skip_without_client(error)
    groups = names["optimizer"].param_groups
    lrs = zip(names["scheduler"].get_last_lr(), groups, strict=True)
    rates = [(float(lr), float(g["lr"]), float(g["initial_lr"])) for lr, g in lrs]
    return float(names["first_loss"]), float(names["last_loss"]), rates
