"""The commands of docs/recipes.md train, and its code does what the page says."""

from __future__ import annotations

import sys

import pytest
import torch

from lit_optim.tasks.classifiers import MLP
from tests.documents import BLOCKS, COMMANDS

PAGE = "docs/recipes.md"
LINES = [list(command.words[2:]) for command in COMMANDS if command.page == PAGE]
THAW, TAKE_WEIGHTS = [
    block.code for block in BLOCKS if block.page == PAGE and block.language == "python"
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with the files that the recipes name."""
    torch.manual_seed(3)
    torch.save(MLP(features=64, classes=10).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "thaw.py").write_text(THAW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("thaw", None)


@pytest.mark.parametrize(
    "line",
    [line for line in LINES if "wandb" not in str(line)],
    ids=lambda line: " ".join(line)[:60],
)
def test_every_command_trains(place, run_here, line):
    result = run_here(*line, "trainer.max_epochs=3", "test=false")
    assert result.steps > 0


def train_and_read_weights(place, run_here, *line):
    run_here("model=mlp", "data=digits", "weights=weights.pt", "test=false", *line)
    return torch.load(place / "run/checkpoints/last.ckpt")["state_dict"]


def test_an_unfrozen_layer_trains_from_its_epoch_on(place, run_here):
    before = torch.load("weights.pt")
    [thaw] = [line for line in LINES if "thaw" in str(line)]
    thaw = [word for word in thaw if not word.startswith(("model", "data"))]
    after_one = train_and_read_weights(place, run_here, *thaw, "trainer.max_epochs=1")
    assert torch.equal(after_one["first.weight"], before["first.weight"])
    assert not torch.equal(after_one["out.weight"], before["out.weight"])
    after_two = train_and_read_weights(place, run_here, *thaw, "trainer.max_epochs=2")
    assert not torch.equal(after_two["first.weight"], before["first.weight"])


def test_the_weights_of_a_run_are_those_of_the_module(place, run_here, monkeypatch):
    run_here("model=mlp", "data=digits", "trainer.max_steps=5", "test=false")
    monkeypatch.chdir(place / "run/checkpoints")
    model = MLP(features=64, classes=10)
    exec(TAKE_WEIGHTS, {"model": model})
    saved = torch.load("weights.pt")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
