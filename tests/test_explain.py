"""`lit-optim explain`: what it tells is what the run would do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from lit_optim.callbacks.threads import CpuThreads
from lit_optim.cli import main
from lit_optim.errors import UsageError
from lit_optim.reports.explanation import explain
from lit_optim.threads import VARIABLES, Cpus


def told(*lines, capsys):
    explain(["data=digits", "model=mlp", *lines], Console(width=200))
    return capsys.readouterr().out


def test_the_horizon_the_schedule_and_the_groups(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["optimizer=adamw", "optimizer.lr=1e-3", "scheduler=wsd", "trainer.max_steps=200"]
    out = told(*lines, capsys=capsys)
    assert "200 updates, as trainer.max_steps says" in out
    assert "warmup     10 updates" in out
    lines = [line.split() for line in out.splitlines() if line.strip().startswith("update ")]
    # up in 5 %, down in the last 20 %
    assert [line[1] for line in lines] == ["0", "9", "159", "199"]
    assert [float(line[3]) for line in lines] == pytest.approx([1e-4, 1e-3, 1e-3, 0], abs=1e-12)
    assert "AdamW" in out
    assert "no problems found" in out
    assert not list(tmp_path.iterdir())  # nothing is written


def test_epochs_and_state(capsys):
    """AdamW keeps two float32 of each parameter, in 8 bits a little over one byte of each."""
    out = told("trainer.max_epochs=3", "trainer.accumulate_grad_batches=2", capsys=capsys)
    [line] = [line for line in out.splitlines() if line.startswith("run ")]
    epochs, batches, steps = (int(line.split()[k].replace(",", "")) for k in (3, 6, 1))
    assert (epochs, steps) == (3, 3 * -(-batches // 2))
    [count] = [line for line in out.splitlines() if "parameters are trained" in line]
    params = int(count.split()[0].replace(",", ""))
    size, unit = float(count.split()[-4]), count.split()[-3]
    assert size * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(8 * params, rel=0.01)
    out = told("optimizer.state_dtype=int8", capsys=capsys)
    [count] = [line for line in out.splitlines() if "parameters are trained" in line]
    size, unit = float(count.split()[-4]), count.split()[-3]
    assert 2 * params < size * {"kB": 1e3, "MB": 1e6}[unit] < 2.1 * params


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (["optimizer=sgd", "optimizer.lr=50"], "lr=50 is far from SGD's usual range"),
        (["optimizer=muon", "optimizer.adamw_lr=9"], "lr=9 is far from AdamW's usual range"),
        (["optimizer=schedule_free_adamw", "scheduler=cosine"], "averages the weights instead of"),
        (["scheduler.warmup=0.01%", "trainer.max_steps=50"], "of 50 updates is less than one"),
        (["scheduler.total=20", "trainer.max_steps=50"], "the schedule has 20 updates and the run"),
    ],
    ids=["lr", "lr_of_a_part", "steady", "warmup", "total"],
)
def test_what_looks_like_a_mistake(lines, warning, capsys):
    out = told(*lines, capsys=capsys)
    assert warning in out
    assert out.count("likely a mistake") == 1


@pytest.mark.parametrize(
    "optimizer",
    [["optimizer=adamw"], ["optimizer=muon"],
     ["optimizer=custom", "optimizer._target_=torch.optim.Adam", "optimizer.lr=1e-3"]],
    ids=["ours", "muon", "torch's"],
)  # fmt: skip
@pytest.mark.parametrize("frozen", ["first.*", "*.bias", "second.weight"])
def test_what_is_frozen_is_not_trained_and_keeps_nothing(optimizer, frozen, capsys):
    from fnmatch import fnmatch

    from lit_optim.tasks.classifiers import MLP

    rule = f"param_groups.rules=[{{name: '{frozen}', frozen: true}}]"
    out = told(*optimizer, "param_groups=rules", rule, capsys=capsys)
    sizes = {name: p.numel() for name, p in MLP(64, 10).named_parameters()}
    rest = sum(size for name, size in sizes.items() if fnmatch(name, frozen))
    assert f"{sum(sizes.values()) - rest:,} parameters are trained, {rest:,} are not" in out
    rows = [line.split() for line in out.splitlines() if " frozen " in line]
    assert {row[0] for row in rows} == {name for name in sizes if fnmatch(name, frozen)}
    assert all(row[-1] == "-" for row in rows)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("trainer.threads=3", "3, as trainer.threads says"), ("seed=1", "1, or 7 if a batch shows")],
)
def test_the_threads(line, expected, capsys, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lit_optim.threads.read_cpus", lambda: Cpus(8, 7, 0.0))
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    out = told(line, capsys=capsys)
    [row] = [row.split(maxsplit=1)[1] for row in out.splitlines() if row.startswith("threads ")]
    assert row.startswith(expected)


@pytest.mark.parametrize(("processes", "nodes", "each"), [(2, 1, 4), (8, 2, 2), (9, 1, 1)])
def test_the_threads_of_several_processes(processes, nodes, each, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lit_optim.callbacks.threads.usable_cpus", lambda: 8)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(strategy=strategy, world_size=processes, num_nodes=nodes)
    found = CpuThreads().describe(trainer, nn.Linear(1, 1))
    assert found == f"{each} in each process, as Lightning divides them"


def test_what_else_is_told(capsys):
    out = told(
        "optimizer=muon", "wrapper=ema", "schedules.momentum=lr", "lr_rule=linear", capsys=capsys
    )
    assert "wrapper    ema" in out
    assert "Ema keeps a copy of the weights" in out
    assert "momentum" in out
    assert "hidden" in out


def test_mistakes_of_the_line(capsys):
    with pytest.raises(SystemExit) as end:
        main(["explain", "optimizer=adamv"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UsageError, match=r"leave out trainer\.fast_dev_run"):
        told("debug=fast", capsys=capsys)
    with pytest.raises(UsageError, match="single run, but 2 were given"):
        explain(["optimizer=adamw,sgd"], Console())


@pytest.mark.parametrize("steps", [34, 50, 68, 101])
@pytest.mark.parametrize(
    "lines",
    [
        ["scheduler=StepLR", "scheduler.step_size=2"],
        ["scheduler=ExponentialLR"],
        ["scheduler=CosineAnnealingLR"],
        ["scheduler=MultiStepLR", "scheduler.milestones=[1,2]"],
    ],
    ids=lambda lines: lines[0],
)
def test_a_schedule_in_epochs_is_no_mistake_where_the_last_one_is_cut(lines, steps, capsys):
    out = told(*lines, "scheduler.interval=epoch", f"trainer.max_steps={steps}",
               "optimizer.lr=1e-3", capsys=capsys)  # fmt: skip
    assert "no problems found" in out


def test_a_pipe_gets_no_trailing_blanks(capsys):
    main(["explain", "data=digits", "model=mlp", "optimizer=muon", "trainer.max_steps=20"])
    lines = capsys.readouterr().out.splitlines()
    assert any("Muon" in line for line in lines)
    assert [line for line in lines if line != line.rstrip()] == []
