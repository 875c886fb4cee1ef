"""trainer=fsdp trains what one process trains, and resumes on any number of processes."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lit_optim.errors import UsageError
from lit_optim.training.sharded import ShardedStrategy, shard_module
from tests.sharding.processes import processes
from tests.sharding.products import saved, train

TO_THE_BIT = {"rtol": 0, "atol": 0}
NEAR = {"rtol": 0, "atol": 1e-10}


def sharded(size, place, *argv):
    line = ("trainer=fsdp_cpu", f"trainer.devices={size}", *argv)
    results = processes(size).run(train, str(place), *line)
    assert all(results[0].get("error") == other.get("error") for other in results[1:])
    return results[0]


def alone(place, *argv):
    return processes(1).run(train, str(place), "trainer=cpu", *argv)[0]


def assert_same(a, b, tolerance):
    assert_close(dict(a["state_dict"]), dict(b["state_dict"]), **tolerance)
    for first, second in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        assert first["param_groups"] == second["param_groups"]
        for one, other in zip(first["state"].values(), second["state"].values(), strict=True):
            assert_close(_kept(one), _kept(other), **tolerance)


def _kept(state):
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_two_processes_train_what_one_trains(name, tmp_path):
    line = (f"optimizer={name}", "scheduler.total=9", "trainer.max_steps=9")
    one, two = alone(tmp_path / "one", *line), sharded(2, tmp_path / "two", *line)
    assert one["steps"] == two["steps"] == 9
    for stage in ("final", "test"):
        assert two[stage] == pytest.approx(one[stage], abs=1e-6)
    assert_same(saved(tmp_path / "two"), saved(tmp_path / "one"), NEAR)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "line",
    [
        ("optimizer=muon",),
        ("optimizer=soap", "wrapper=ema"),
        ("optimizer=adamw", "optimizer.state_dtype=int8"),
        pytest.param(
            ("optimizer=schedule_free_adamw", "scheduler=constant_warmup"), marks=pytest.mark.slow
        ),
        pytest.param(("optimizer=adafactor", "wrapper=lookahead"), marks=pytest.mark.slow),
        pytest.param(("optimizer=shampoo",), marks=pytest.mark.slow),
        pytest.param(("optimizer=lamb", "wrapper=sam"), marks=pytest.mark.slow),
    ],
    ids=lambda line: "-".join(x.split("=")[1] for x in line[:2]),
)
def test_runs_resume_on_any_number_of_processes(line, tmp_path):
    # blocks of 8-bit states are of shards, which differ in length
    near = {"rtol": 0, "atol": 2e-2} if "optimizer.state_dtype=int8" in line else NEAR
    line = (*line, "scheduler.total=9")
    short, long = (*line, "trainer.max_steps=6"), (*line, "trainer.max_steps=9")
    go_on = (*long, "resume.horizon=extend")
    changed = (*go_on, "resume.override=[trainer.devices,trainer.strategy]")
    assert sharded(2, tmp_path / "whole", *long).get("steps") == 9
    whole = saved(tmp_path / "whole")
    sharded(2, tmp_path / "part_2", *short)
    for size, more, tolerance in ((3, changed, near), (1, changed, near), (2, go_on, TO_THE_BIT)):
        place = tmp_path / f"part_{size}"
        if size != 2:
            shutil.copytree(tmp_path / "part_2", place)
        again = (f"resume={place}", *more)
        found = alone(place, *again) if size == 1 else sharded(size, place, *again)
        assert found.get("steps") == 9, found
        assert_same(saved(place), whole, tolerance)


def test_one_process_resumes_in_float64_to_the_bit(tmp_path):
    line = ("optimizer=adamw", "scheduler.total=9", "resume.horizon=keep")
    for place, steps in (("whole", 9), ("part", 6)):
        alone(tmp_path / place, *line[:2], f"trainer.max_steps={steps}")
    alone(tmp_path / "part", *line, "trainer.max_steps=9", f"resume={tmp_path}/part")
    assert_same(saved(tmp_path / "part"), saved(tmp_path / "whole"), TO_THE_BIT)


def test_a_file_is_tested_and_the_best_weights_after_training(tmp_path):
    line = ("trainer.max_steps=4", "ckpt=best")
    trained = sharded(2, tmp_path / "run", *line)
    file = f"ckpt={tmp_path}/run/checkpoints/best.ckpt"
    tested = sharded(2, tmp_path / "test", "train=false", file)
    one = alone(tmp_path / "one", "train=false", file)
    assert tested["test"] == trained["test"] == pytest.approx(one["test"])


def test_a_full_batch_is_that_of_one_process(tmp_path):
    line = ("batch=full", "data.batch_size=300", "trainer.max_steps=2", "optimizer=lamb")
    for place, run in (("one", alone), ("two", lambda *argv: sharded(2, *argv))):
        assert run(tmp_path / place, *line)["steps"] == 2
    assert_same(saved(tmp_path / "two"), saved(tmp_path / "one"), NEAR)


def test_what_cannot_be_sharded_is_refused_in_a_line(tmp_path):
    steps = "trainer.max_steps=2"
    found = sharded(2, tmp_path, steps, "optimizer=lbfgs")
    assert "takes no DTensors, and parameter first.weight is one" in found["error"]


def test_a_number_cannot_be_sharded():
    from lightning.pytorch import LightningModule

    module = LightningModule()
    module.layer, module.scale = nn.Linear(2, 2), nn.Parameter(torch.tensor(1.0))
    message = "FSDP2 cannot shard the parameter scale, a single number without a dimension: make"
    with pytest.raises(UsageError, match=message):
        shard_module(module, None)


def test_a_loss_scaler_is_refused():
    strategy = ShardedStrategy()
    strategy._precision_plugin = SimpleNamespace(scaler=object())
    strategy._accelerator = object()
    with pytest.raises(UsageError, match=r"precision=16-mixed: each process would scale its"):
        strategy.setup(SimpleNamespace(precision="16-mixed"))
