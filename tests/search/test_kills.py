"""A search that is killed at any of its writes, and gone on with, is as one that was not."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from tests.conftest import ROOT

SETTINGS = {"trials": 6, "sampler": "tpe", "seeds": [0], "seed": 3}


@pytest.fixture(scope="module")
def search_killed_at():
    """Run a search in a directory until it is killed at a write; None: to its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.search.killed"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def start(directory, point=None, **settings):
        asked = {"directory": str(directory), "kill_at": point, "settings": SETTINGS | settings}
        print(json.dumps(asked), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield start
    process.communicate(timeout=60)


def read(directory):
    """The trials of a search: by number, their values, what they were told, and their runs."""
    [name] = optuna.get_all_study_names(f"sqlite:///{directory / 'study.db'}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{directory / 'study.db'}")
    return [
        (trial.number, trial.state, trial.params, trial.values, trial.user_attrs["run_dirs"])
        for trial in study.trials
    ]


@pytest.fixture(scope="module")
def whole(search_killed_at, tmp_path_factory):
    """An uninterrupted search: its trials, and how many writes it takes."""
    directory = tmp_path_factory.mktemp("whole")
    writes = search_killed_at(directory)
    trials = read(directory)
    assert [state for _, state, *_ in trials] == [TrialState.COMPLETE] * 6
    assert len({json.dumps(params) for _, _, params, *_ in trials}) == 6
    assert writes > 100
    return trials, writes


def check_killed_at(points, search_killed_at, whole, tmp_path):
    for point in points:
        directory = tmp_path / str(point)
        assert search_killed_at(directory, point) is None
        assert search_killed_at(directory) is not None
        assert read(directory) == whole[0], point


def test_a_search_that_is_killed_at_a_write(search_killed_at, whole, tmp_path):
    points = random.Random(0).sample(range(1, whole[1] + 1), 3)
    check_killed_at(points, search_killed_at, whole, tmp_path)


@pytest.mark.slow
def test_a_search_that_is_killed_at_each_write(search_killed_at, whole, tmp_path):
    check_killed_at(range(1, whole[1] + 1), search_killed_at, whole, tmp_path)


def test_a_search_that_is_killed_again_and_again(search_killed_at, whole, tmp_path):
    draw, kills = random.Random(1), 0
    while search_killed_at(tmp_path, draw.randint(1, whole[1] // 3)) is None:
        kills += 1
        assert kills < 40
    assert kills > 2
    assert read(tmp_path) == whole[0]


def test_more_trials_are_those_of_a_longer_search(search_killed_at, whole, tmp_path):
    search_killed_at(tmp_path, trials=3)
    assert len(read(tmp_path)) == 3
    search_killed_at(tmp_path)
    assert read(tmp_path) == whole[0]
