"""Searches as a user starts them: what is left behind, and what real kills and Ctrl-C do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.search.recorded import read
from tests.sweeps.waiting import wait_for

LINE = [
    "-m", "optimizer=adamw", "optimizer.lr=auto", "search.sampler=tpe",
    "search.metric=val/loss", "data=digits", "model=mlp", "trainer.val_check_interval=20",
    "logger=none", "hydra.sweep.dir=s",
]  # fmt: skip


def read_run(place: Path, name="job.json"):
    try:
        return json.loads((place / name).read_text())
    except FileNotFoundError:
        return {}


def is_saved(place):
    return (place / "checkpoints" / "last.ckpt").exists()


STEPS = "trainer.max_steps=600"


def check_whole(tmp_path, places):
    """Each trial has completed once, with the values that the storage has."""
    assert [read_run(place)["status"] for place in places] == ["completed"] * len(places)
    results = [read_run(place, "result.json") for place in places]
    assert [result["steps"] for result in results] == [600] * len(places)
    told = read(tmp_path / "s")
    assert [values for *_, values, _ in told] == [[one["final"]["val/loss"]] for one in results]
    for (_, _, params, _, (run_dir,)), place in zip(told, places, strict=True):
        assert tmp_path / "s" / run_dir == place
        assert f"++optimizer.lr={params['optimizer.lr']}" in read_run(place)["overrides"]


@pytest.mark.slow
def test_a_job_and_then_the_search_itself_are_killed(tmp_path, train, begin):
    """The run is started again from its checkpoint; one that outlives the search is awaited."""
    first, second = (tmp_path / "s" / f"trial=00{n}" / "seed=0" for n in range(2))
    process = begin(*LINE, STEPS, "search.trials=2")
    wait_for(lambda: is_saved(first), 120)
    os.kill(read_run(first)["pid"], signal.SIGKILL)
    wait_for(lambda: is_saved(second), 120)
    process.send_signal(signal.SIGKILL)  # and nothing that it has started
    _, err = process.communicate()
    assert "trial=000/seed=0: killed by SIGKILL" in err
    assert len(read_run(first, "run.json")["resumed"]) == 1  # from its checkpoint
    done = train("-m", "resume=s", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 trials already done" in done.stderr
    assert "resumed" not in read_run(second, "run.json")
    check_whole(tmp_path, (first, second))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_search_with_one_line_and_it_is_resumed(
    tmp_path, train, begin, number, code
):
    first, second = (tmp_path / "s" / f"trial=00{n}" / "seed=0" for n in range(2))
    process = begin(*LINE, STEPS, "search.trials=2")
    wait_for(lambda: is_saved(second), 120)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "lit-optim: interrupted with 1 of 2 trials done: " in err
    assert read_run(second)["status"] == "interrupted"
    assert torch.load(second / "checkpoints" / "last.ckpt")["global_step"] > 0
    done = train("-m", "resume=s", timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(read_run(second, "run.json")["resumed"]) == 1
    check_whole(tmp_path, (first, second))


def test_a_search_goes_on_towards_more_trials_by_its_directory_alone(tmp_path, train):
    line = [one for one in LINE if "auto" not in one]
    line += ["optimizer.lr=choice(1e-3,1e-2)", "n_jobs=2", "search.seeds=[0,1]"]
    begun = train(*line, "trainer.max_steps=40", "search.pruner=median", "search.trials=1")
    assert begun.returncode == 0, begun.stderr
    assert "1/1 trial=000/seed=1: completed · best trial 0" in begun.stderr
    done = train("-m", "resume=s", "search.trials=2")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 trials already done" in done.stderr
    assert len(read(tmp_path / "s")) == 2


def test_a_run_of_two_processes_is_pruned_by_both(tmp_path, train):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "stop.json").write_text("{}")
    done = train("data=digits", "model=mlp", "trainer.devices=2", "trainer.strategy=ddp",
                 "trainer.max_steps=60", "trainer.val_check_interval=10", "logger=none",
                 "hydra.run.dir=r", timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    record, result = (read_run(tmp_path / "r", name) for name in ("job.json", "result.json"))
    assert (record["status"], record["exit_code"]) == ("pruned", 0)
    assert (result["steps"], result["pruned"], result["test"]) == (10, True, {})
    assert result["value"] == result["final"][result["monitor"]]
    assert torch.load(tmp_path / "r" / "checkpoints" / "last.ckpt")["global_step"] == 10
