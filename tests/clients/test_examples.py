"""Each script of examples/ is short, trains, and ends where its schedule ends."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch

from tests.clients.conftest import skip_without_client
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted((ROOT / "docs/clients").glob("*.md"))
MOST_LINES = 30
#: The lr at the end, as a share of the peak, at which a schedule has reached its floor.
FLOOR = 1e-3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_page_names_the_example(path: Path):
    assert any(f"`examples/{path.name}`" in page.read_text("utf-8") for page in PAGES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_index_has_the_page(path: Path):
    index = path.with_name("index.md")
    assert path == index or f"]({path.name})" in index.read_text("utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains(path: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path)])
    torch.manual_seed(0)
    try:
        names = runpy.run_path(str(path), run_name="__main__")
    except ModuleNotFoundError as error:
        skip_without_client(error)
    first, last = float(names["first_loss"]), float(names["last_loss"])
    assert math.isfinite(first)
    assert last < first
    groups = names["optimizer"].param_groups
    assert [float(lr) for lr in names["scheduler"].get_last_lr()] == [
        float(group["lr"]) for group in groups
    ]
    for group in groups:
        assert float(group["initial_lr"]) > 0
        assert float(group["lr"]) <= FLOOR * float(group["initial_lr"])
