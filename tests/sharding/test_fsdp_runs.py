"""trainer=fsdp trains what one process trains, and resumes on any number of processes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.sharding.processes import processes
from tests.sharding.products import saved, train

ONE, FSDP = ("trainer=cpu",), ("trainer=fsdp_cpu",)


def sharded(size, place, *argv):
    results = processes(size).run(train, str(place), *FSDP, f"trainer.devices={size}", *argv)
    assert all(results[0].get("error") == other.get("error") for other in results[1:])
    return results[0]


def alone(place, *argv):
    return processes(1).run(train, str(place), *ONE, *argv)[0]


def same(a, b, **tolerance):
    assert_close(a["state_dict"], b["state_dict"], **tolerance)
    for first, second in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        assert_close(first, second, **tolerance)


TO_THE_BIT = {"rtol": 0, "atol": 0}
NEAR = {"rtol": 0, "atol": 1e-10}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_two_processes_train_what_one_trains_and_resume(name, tmp_path):
    line = (f"optimizer={name}", "trainer.max_steps=6")
    longer = ("trainer.max_steps=9", "resume.horizon=extend")
    one, two = alone(tmp_path / "one", *line), sharded(2, tmp_path / "two", *line)
    assert one["steps"] == two["steps"] == 6
    for stage in ("final", "test"):
        assert two[stage] == pytest.approx(one[stage], abs=1e-9)
    same(saved(tmp_path / "two"), saved(tmp_path / "one"), **NEAR)
