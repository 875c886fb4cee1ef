"""trainer=fsdp trains what one process trains, and resumes on any number of processes."""

from __future__ import annotations

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
        assert_close(first["state"], second["state"], **tolerance)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_two_processes_train_what_one_trains(name, tmp_path):
    line = (f"optimizer={name}", "scheduler.total=9")
    long = (*line, "trainer.max_steps=9")
    one, two = alone(tmp_path / "one", *long), sharded(2, tmp_path / "two", *long)
    assert one["steps"] == two["steps"] == 9
    for stage in ("final", "test"):
        assert two[stage] == pytest.approx(one[stage], abs=1e-6)
    whole = saved(tmp_path / "two")
    assert_same(whole, saved(tmp_path / "one"), NEAR)
