"""What docs/recipes.md says works as it stands there."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
import torch

from lit_optim.command_line.prepare import front
from lit_optim.tasks.classifiers import MLP
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "recipes.md").read_text("utf-8")
LINES = [shlex.split(line)[2:] for line in re.findall(r"^    (python train\.py .*)$", TEXT, re.M)]
CODE = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with what the recipes name."""
    torch.manual_seed(3)
    torch.save(MLP(features=64, classes=10).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "thaw.py").write_text(CODE[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("thaw", None)


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line)[:60])
@pytest.mark.usefixtures("place")
def test_every_command_is_accepted(line):
    assert front(line).argv


@pytest.mark.parametrize(
    "line",
    [line for line in LINES if "wandb" not in str(line)],
    ids=lambda line: " ".join(line)[:60],
)
def test_every_command_trains(place, run_here, line):
    result = run_here(*line, "trainer.max_epochs=3", "test=false")
    assert result.steps > 0


def weights_after(place, run_here, *line):
    run_here("model=mlp", "data=digits", "weights=weights.pt", "test=false", *line)
    return torch.load(place / "run/checkpoints/last.ckpt")["state_dict"]


def test_a_thawed_layer_trains_from_its_epoch_on(place, run_here):
    before = torch.load("weights.pt")
    [thaw] = [line for line in LINES if "thaw" in str(line)]
    thaw = [word for word in thaw if not word.startswith(("model", "data"))]
    epoch = weights_after(place, run_here, *thaw, "trainer.max_epochs=1")
    assert torch.equal(epoch["first.weight"], before["first.weight"])
    assert not torch.equal(epoch["out.weight"], before["out.weight"])
    more = weights_after(place, run_here, *thaw, "trainer.max_epochs=2")
    assert not torch.equal(more["first.weight"], before["first.weight"])


def test_the_weights_of_a_run_are_those_of_the_module(place, run_here, monkeypatch):
    run_here("model=mlp", "data=digits", "trainer.max_steps=5", "test=false")
    monkeypatch.chdir(place / "run/checkpoints")
    model = MLP(features=64, classes=10)
    exec(CODE[1], {"model": model})
    saved = torch.load("weights.pt")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
