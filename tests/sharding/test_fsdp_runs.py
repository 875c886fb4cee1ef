"""trainer=fsdp trains what one process trains, and resumes on any number of processes."""

from __future__ import annotations

import shutil

import pytest
from torch.testing import assert_close

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
