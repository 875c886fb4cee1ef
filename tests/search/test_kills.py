"""A search that is killed at any of its writes, and gone on with, is as one that was not."""

from __future__ import annotations

import json
import random

import pytest
from optuna.trial import TrialState

from tests.search.killing import check_kills, draw_points, starting
from tests.search.recorded import read

SETTINGS = {"trials": 6, "sampler": "tpe", "seeds": [0], "seed": 3}


@pytest.fixture(scope="module")
def search_killed_at():
    with starting(settings=SETTINGS) as start:
        yield start


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


def test_a_search_that_is_killed_at_a_write_loses_nothing(search_killed_at, whole, tmp_path):
    points = draw_points(whole[1], 3)
    check_kills(points, search_killed_at, read, whole[0], tmp_path)


@pytest.mark.slow
def test_a_search_that_is_killed_at_each_write_loses_nothing(search_killed_at, whole, tmp_path):
    check_kills(range(1, whole[1] + 1), search_killed_at, read, whole[0], tmp_path)


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_loses_nothing(search_killed_at, whole, tmp_path):
    draw, kills = random.Random(1), 0
    while search_killed_at(tmp_path, draw.randint(1, whole[1] // 3)) is None:
        kills += 1
        assert kills < 40
    assert kills > 2
    assert read(tmp_path) == whole[0]


def test_more_trials_are_those_of_a_longer_search(search_killed_at, whole, tmp_path):
    search_killed_at(tmp_path, settings={"trials": 3})
    assert len(read(tmp_path)) == 3
    search_killed_at(tmp_path)
    assert read(tmp_path) == whole[0]
