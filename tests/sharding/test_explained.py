"""`lit-optim explain` tells of sharded runs, without their processes, what these keep and send."""

from __future__ import annotations

import re

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn

from lit_optim.callbacks.parameter_table import format_bytes
from lit_optim.errors import UsageError
from lit_optim.optimizers import find_optimizer
from lit_optim.reports.explanation import explain
from lit_optim.reports.sharding_plan import matrix_owners
from tests.held_gradients import gradients_held
from tests.sharding.processes import processes
from tests.sharding.products import captured

#: Bytes of the three matrices of the model in float64.
MATRICES = 8 * (100 * 64 + 100 * 100)


def told(*lines, capsys):
    line = ["data=digits", "model=mlp", "trainer.max_steps=3", *lines]
    explain(line, Console(width=300))
    assert not dist.is_initialized()
    return capsys.readouterr().out


def test_what_rank_0_keeps_and_who_owns_what_is_that_of_a_run(capsys, tmp_path):
    line = ("optimizer=muon", "trainer=fsdp_cpu", "trainer.precision=64-true")
    out = told(*line, capsys=capsys)
    (ran, _) = processes(2).run(captured, str(tmp_path), *line, "trainer.max_steps=3")

    def rows(text):
        found = [line.split() for line in text.splitlines() if " dim 0 / 2" in line]
        assert len(found) == 6
        return found

    assert rows(out) == rows(ran["out"])
    sizes = [float(x) for x in re.findall(r"([\d.]+) kB of state on rank 0", out)]
    assert sizes == [pytest.approx(ran["state"] / 1000, rel=2e-3)]
    owned = {
        row.split()[0]: row.split()[5:] for row in out.splitlines() if "  %" in row or " % " in row
    }
    assert owned == {"0": ["second.weight"], "1": ["first.weight"]}


def states_by_rank(name):
    """The bytes of states of sharded matrices in this process, and those that owners keep."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 40), nn.Linear(40, 4))
    optimizer = find_optimizer(name)(fully_shard(model))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    found = 0
    for p in (model[0].weight, model[2].weight):
        state = optimizer.state[p]
        found += sum(
            x.nbytes
            for key, x in state.items()
            if torch.is_tensor(x) and key not in optimizer.prepared
        )
    table = matrix_owners(optimizer, model)
    return found, list(table.columns[2].cells)


@pytest.mark.parametrize("name", ["muon", "normuon", "shampoo", "soap"])
def test_owners_keep_the_states_that_the_table_says(name):
    ranks = processes(3).run(states_by_rank, name)
    assert [format_bytes(found) for found, _ in ranks] == ranks[0][1]
    assert all(cells == ranks[0][1] for _, cells in ranks)


def test_what_a_step_sends(capsys):
    # the halves of both matrices to their owners, and the halves of the results back
    out = told("optimizer=muon", "trainer=fsdp_cpu", "trainer.precision=64-true", capsys=capsys)
    [sent] = re.findall(r"sent in a step +([\d.]+) kB in 2 messages by Muon", out)
    assert float(sent) == pytest.approx(MATRICES / 2 / 1000, rel=1e-2)
    assert "nothing by AdamW" in told("trainer=fsdp", "trainer.devices=3", capsys=capsys)
    # a trust ratio takes two sums of each of six tensors, in one message
    lamb = told("optimizer=lamb", "trainer=fsdp", "trainer.devices=[0,1]", capsys=capsys)
    assert "96 B in 1 message by Lamb" in lamb
    whole = told("optimizer=lamb", "trainer=cpu", capsys=capsys)
    assert "sharded" not in whole
    assert "rank" not in whole


def test_bytes_of_a_rank(capsys):
    out = told("trainer=fsdp", "trainer.devices=5", "optimizer.state_dtype=bfloat16", capsys=capsys)
    params = 4 * (20 * 64 + 20 * 100 + 2 * 100 + 20 + 20 + 2)
    [line] = re.findall(r"^on rank 0 .*", out, re.M)
    kept = {word: float(x) for x, word in re.findall(r"([\d.]+) kB of (\w+)", line)}
    assert kept["parameters"] == kept["gradients"] == pytest.approx(params / 1000, rel=5e-3)
    assert kept["state"] == pytest.approx(params / 1000, rel=5e-3)  # two of half the width


def gradients_held_by_layers(name):
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    return gradients_held(name, fully_shard)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_released_gradients_of_a_layer_are_there_together(name):
    for found, computed in processes(2).run(gradients_held_by_layers, name):
        assert found == computed


def test_layers_are_gathered_one_by_one(capsys, tmp_path):
    (tmp_path / "book.txt").write_text("to be or not to be, that is the question " * 99)
    line = ["data=char_lm", f"data.path={tmp_path}/book.txt", "model=gpt", "trainer=fsdp_cpu"]
    out = told(*line, "wrapper=sam", capsys=capsys)
    assert "over 2 processes by FSDP2, which gathers 4 layers one by one, then the rest" in out
    assert "message" in out  # Sam needs a closure


def test_devices_that_cannot_be_counted(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UsageError, match="this machine has no GPU to count; set"):
        told("trainer=fsdp", capsys=capsys)
