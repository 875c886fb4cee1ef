"""A tournament that is killed at any of its writes, and gone on with, is as one that was not."""

from __future__ import annotations

import json

import pytest

from lit_optim.runs.job import read_job
from tests.search.killing import check_kills, draw_points, starting
from tests.search.made_up import loss
from tests.tournament.made_up import NAMES, SEEDS, run_tournament


@pytest.fixture(scope="module")
def killed_at():
    with starting(is_tournament=True) as start:
        yield start


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


def test_a_tournament_that_is_killed_at_a_write_loses_nothing(killed_at, whole, tmp_path):
    last = whole[1] - 20  # of the runs that are compared
    points = [*draw_points(last, 1), last, whole[1] - 3]
    check_kills(points, killed_at, read, whole[0], tmp_path)


@pytest.mark.slow
def test_a_tournament_that_is_killed_at_each_write_loses_nothing(killed_at, whole, tmp_path):
    check_kills(range(1, whole[1] + 1), killed_at, read, whole[0], tmp_path)


def crash(run_dir, values, count):
    """One of the final runs crashes whenever it is started."""
    if run_dir.parts[-3:] == ("sgd", "final", "seed=7"):
        return -9
    return loss(float(values["optimizer.lr"]), int(values["seed"]))


def test_a_final_run_that_crashes_runs_once_again_and_others_go_on(tmp_path):
    done = run_tournament(tmp_path, act=crash, n_jobs=2)
    assert done.started.count("final/seed=7") == 3  # once of the other one
    assert len(read(tmp_path)) == len(NAMES) * (3 + 2 * len(SEEDS)) - 1


def test_the_crashes_of_a_final_run_are_counted_over_all_workers_until_it_is_resumed(tmp_path):
    run_tournament(tmp_path, act=crash)
    assert run_tournament(tmp_path, act=crash).started == []
    crashed = [*tmp_path.glob("*/final/.crashed/*")]
    assert [path.relative_to(tmp_path).parts[0] for path in crashed] == ["sgd"]
    for text in ("[]", "no JSON", '{"crashes": "2", "started": 1.0}', '{"crashes": 1e999}'):
        crashed[0].write_text(text)  # by a stranger, or another version
        assert run_tournament(tmp_path, act=crash).started == ["final/seed=7"] * 2
    resumed = run_tournament(tmp_path, started=2.0)
    assert resumed.started == ["final/seed=7"]
    assert len(read(tmp_path)) == len(NAMES) * (3 + 2 * len(SEEDS))


def test_a_trial_that_had_failed_may_be_the_best_of_a_resumed_tournament(tmp_path):
    def fail_best(run_dir, values, count):
        value = loss(float(values["optimizer.lr"]), int(values["seed"]))
        return -9 if run_dir.parts[-2].startswith("trial") and value == best else value

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    first = run_tournament(tmp_path / "whole")
    found = read(tmp_path / "whole")
    trials = {k: value for k, (_, value) in found.items() if k.startswith("sgd/trial")}
    best = min(trials.values())
    run_tournament(tmp_path / "cut", act=fail_best)
    cut = read(tmp_path / "cut")
    assert cut["sgd/final/seed=7"] != found["sgd/final/seed=7"]
    again = run_tournament(tmp_path / "cut", started=2.0)
    assert read(tmp_path / "cut") == found
    assert len(again.started) < len(first.started)
