"""Tournaments as a user runs them."""

from __future__ import annotations

import json
import os

import pytest

from lit_optim.runs.job import read_job
from lit_optim.runs.status import Status
from lit_optim.tournament.data import read_tournament
from tests.conftest import ROOT

SMALL = (
    *("-m", "tournament=default", "data=digits", "model=linear", "trainer.max_steps=12"),
    *("trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=6", "test=false"),
    *("logger=none", "trainer.enable_progress_bar=false"),
    *("n_jobs=2", "hydra.sweep.dir=t", "hydra/sweeper=search"),
)


def start(forks, where, line):
    """Run train.py in a directory."""
    return forks.run([str(ROOT / "train.py"), *line], where, dict(os.environ), 300)


def ended(sweep, role):
    """The runs of a role, by study and directory, with how they ended and their lr."""
    found = {}
    for path in sorted(sweep.glob(f"*/{role}/**/job.json")):
        record = read_job(path.parent)
        lines = dict(line.lstrip("+").split("=", 1) for line in record.overrides)
        study = path.relative_to(sweep).parts[0].removeprefix("optimizer=")
        found[study, path.parent.name] = record.status, float(lines["optimizer.lr"])
    return found


@pytest.fixture(scope="module")
def tournament(tmp_path_factory, forks):
    """A tournament of two optimizers."""
    where = tmp_path_factory.mktemp("tournament")
    line = [*SMALL, "optimizer=adamw,sgd", "tournament.trials=2", "tournament.seeds=[7,8]"]
    return start(forks, where, line), where / "t"


def test_all_search_alike_then_run_with_fresh_seeds_and_at_their_default(tournament):
    done, sweep = tournament
    assert done.returncode == 0, done.stderr
    trials = [*ended(sweep, "trial=000").items(), *ended(sweep, "trial=001").items()]
    lrs = sorted((study, lr) for (study, _), (_, lr) in trials)
    assert lrs == [("adamw", 1e-4), ("adamw", 1e-1), ("sgd", 1e-3), ("sgd", 1.0)]
    finals, untuned = ended(sweep, "final"), ended(sweep, "untuned")
    expected = {(study, f"seed={seed}") for study in ("adamw", "sgd") for seed in (7, 8)}
    assert set(finals) == set(untuned) == expected
    assert {status for status, _ in (*finals.values(), *untuned.values())} == {Status.COMPLETED}
    assert {study: lr for (study, _), (_, lr) in untuned.items()} == {"adamw": 1e-3, "sgd": 1e-3}


def test_the_final_runs_are_at_the_best_trial(tournament):
    _, sweep = tournament
    settings = json.loads((sweep / "search.json").read_text())["settings"]
    better = {"min": min, "max": max}[settings["mode"]]
    for study in ("adamw", "sgd"):
        results = {
            json.loads(path.read_text())["final"][settings["metric"]]: read_job(
                path.parent
            ).overrides
            for path in sweep.glob(f"optimizer={study}/trial=*/seed=0/result.json")
        }
        assert len(results) == 2
        best = results[better(results)]
        lr = next(line for line in best if "optimizer.lr" in line)
        for path in sweep.glob(f"optimizer={study}/final/*"):
            assert lr in read_job(path).overrides


def test_who_meets_whom_is_written(tournament):
    _, sweep = tournament
    found = read_tournament(sweep)
    assert [entry.contestant for entry in found.entries] == ["adamw", "sgd"]
    assert found.settings.seeds == (7, 8)
    assert {entry.updates for entry in found.entries} == {12}


def test_the_same_line_again_does_nothing_and_more_seeds_add_runs(tournament, forks):
    _, sweep = tournament
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/*/*/result.json")}
    line = ["-m", "resume=t", "tournament.seeds=[7,8,9]", "tournament.untuned=false"]
    done = start(forks, sweep.parent, [*line, "hydra/sweeper=search"])
    assert done.returncode == 0, done.stderr
    after = {path: path.stat().st_mtime_ns for path in sweep.glob("*/*/*/result.json")}
    assert {path: after[path] for path in before} == before
    new = {str(path.parent.relative_to(sweep)) for path in after.keys() - before.keys()}
    assert new == {f"optimizer={name}/final/seed=9" for name in ("adamw", "sgd")}
