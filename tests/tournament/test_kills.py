"""A tournament that is killed at any of its writes, and gone on with, is as one that was not."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from lit_optim.runs.job import read_job
from tests.conftest import ROOT
from tests.search.made_up import loss
from tests.tournament.made_up import NAMES, SEEDS, run_tournament


@pytest.fixture(scope="module")
def killed_at():
    """Run a tournament in a directory until it is killed at a write; None: to its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.search.killed"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def start(directory, point=None):
        asked = {"directory": str(directory), "kill_at": point, "is_tournament": True}
        print(json.dumps(asked), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield start
    process.communicate(timeout=60)


def read(directory):
    """The runs of a tournament that have a result: by directory, what they were and came to."""
    found = {}
    for path in sorted(directory.glob("*/*/*/result.json")):
        record = read_job(path.parent)
        assert record.is_done
        value = json.loads(path.read_text())["value"]
        found[str(path.parent.relative_to(directory))] = (record.overrides, value)
    return found


@pytest.fixture(scope="module")
def whole(killed_at, tmp_path_factory):
    """An uninterrupted tournament, and how many writes it takes."""
    directory = tmp_path_factory.mktemp("whole")
    writes = killed_at(directory)
    found = read(directory)
    assert len(found) == len(NAMES) * (3 + 2 * len(SEEDS))
    return found, writes


def test_the_best_trial_of_each_is_compared(whole):
    found, _ = whole
    for name in NAMES:
        trials = [value for place, (_, value) in found.items() if place.startswith(f"{name}/trial")]
        for seed in SEEDS:
            lines, value = found[f"{name}/final/seed={seed}"]
            assert value == pytest.approx(min(trials) + seed)
            assert f"optimizer={name}" in lines
            assert found[f"{name}/untuned/seed={seed}"][1] == pytest.approx(loss(1e-3, seed))


def check_killed_at(points, killed_at, whole, tmp_path):
    for point in points:
        directory = tmp_path / str(point)
        assert killed_at(directory, point) is None
        assert killed_at(directory) is not None
        assert read(directory) == whole[0], point


def test_a_tournament_that_is_killed_at_a_write(killed_at, whole, tmp_path):
    last = whole[1] - 20  # of the runs that are compared
    points = [random.Random(0).randint(1, last), last, whole[1] - 3]
    check_killed_at(points, killed_at, whole, tmp_path)


@pytest.mark.slow
def test_a_tournament_that_is_killed_at_each_write(killed_at, whole, tmp_path):
    check_killed_at(range(1, whole[1] + 1), killed_at, whole, tmp_path)


def test_a_final_run_that_crashes_runs_once_again_and_others_go_on(tmp_path):
    def act(run_dir, values, count):
        if run_dir.parts[-3:] == ("sgd", "final", "seed=7"):
            return -9
        return loss(float(values["optimizer.lr"]), int(values["seed"]))

    done = run_tournament(tmp_path, act=act, n_jobs=2)
    assert done.started.count("final/seed=7") == 3  # once of the other one
    assert len(read(tmp_path)) == len(NAMES) * (3 + 2 * len(SEEDS)) - 1
