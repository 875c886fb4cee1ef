"""Tournaments as a user runs them."""

from __future__ import annotations

import json
import os

import pytest

from lit_optim.results.reading import read_runs
from lit_optim.results.showing import make_report
from lit_optim.results.tournament_record import read_tournament
from lit_optim.runs.job import read_job
from lit_optim.runs.status import Status
from tests.conftest import ROOT

SMALL = (
    *("-m", "tournament=default", "data=digits", "model=linear", "trainer.max_steps=12"),
    *("trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=6", "test=false"),
    "search.metric=val/loss",
    *("logger=none", "trainer.enable_progress_bar=false"),
    *("n_jobs=2", "hydra.sweep.dir=t"),
)


NAMES = ("adamw", "twin")


def start(forks, where, line):
    """Run train.py in a directory."""
    return forks.run([str(ROOT / "train.py"), *line], where, dict(os.environ), 300)


def values(study):
    """What came out of the runs of a study, by their directories."""
    results = {path.parent: json.loads(path.read_text()) for path in study.glob("*/*/result.json")}
    return {str(run_dir.relative_to(study)): x["final"] for run_dir, x in results.items()}


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
    """A tournament of two optimizers, one of them under a second name as well."""
    where = tmp_path_factory.mktemp("tournament")
    (where / "own" / "optimizer").mkdir(parents=True)
    (where / "own" / "optimizer" / "twin.yaml").write_text("defaults: [adamw]\n")
    line = [
        "--config-dir=own",
        *SMALL,
        "optimizer=adamw,twin",
        "tournament.trials=2",
        "tournament.seeds=[7]",
    ]
    return start(forks, where, line), where / "t"


def test_all_search_alike_then_run_with_fresh_seeds_and_at_their_default(tournament):
    done, sweep = tournament
    assert done.returncode == 0, done.stderr
    trials = [*ended(sweep, "trial=000").items(), *ended(sweep, "trial=001").items()]
    lrs = sorted((study, lr) for (study, _), (_, lr) in trials)
    assert lrs == [("adamw", 1e-4), ("adamw", 1e-1), ("twin", 1e-4), ("twin", 1e-1)]
    finals, untuned = ended(sweep, "final"), ended(sweep, "untuned")
    expected = {(study, "seed=7") for study in NAMES}
    assert set(finals) == set(untuned) == expected
    assert {status for status, _ in (*finals.values(), *untuned.values())} == {Status.COMPLETED}
    assert {study: lr for (study, _), (_, lr) in untuned.items()} == dict.fromkeys(NAMES, 1e-3)


def test_the_final_runs_are_at_the_best_trial(tournament):
    _, sweep = tournament
    for study in NAMES:
        trials = sweep.glob(f"optimizer={study}/trial=*/seed=0/result.json")
        results = {json.loads(path.read_text())["final"]["val/loss"]: path for path in trials}
        assert len(results) == 2
        best = read_job(results[min(results)].parent).overrides
        lr = next(line for line in best if "optimizer.lr" in line)
        for path in sweep.glob(f"optimizer={study}/final/*"):
            assert lr in read_job(path).overrides


def test_who_meets_whom_is_written(tournament):
    _, sweep = tournament
    found = read_tournament(sweep)
    assert [entry.contestant for entry in found.entries] == [*NAMES]
    assert found.settings.seeds == (7,)
    assert {entry.updates for entry in found.entries} == {12}


def test_one_optimizer_under_two_names_is_the_same(tournament):
    """To the last digit: the same trials, the same best, the same seeds."""
    _, sweep = tournament
    results = {name: values(sweep / f"optimizer={name}") for name in NAMES}
    assert results["adamw"] == results["twin"]
    assert len(results["twin"]) == 4
    rows = {row.values["optimizer"]: row for row in make_report([sweep]).rows}
    assert rows["adamw"].rank == rows["twin"].rank


def test_the_same_line_again_runs_what_is_left_and_more_seeds_add_runs(tournament, forks):
    _, sweep = tournament
    lost = sweep / "optimizer=twin" / "final" / "seed=7"  # as a kill leaves it
    record = json.loads((lost / "job.json").read_text())
    (lost / "job.json").write_text(json.dumps(record | {"status": "running", "exit_code": None}))
    (lost / "result.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/*/*/result.json")}
    line = ["--config-dir=own", "-m", "resume=t"]
    more = ["tournament.seeds=[7,9]", "tournament.untuned=false"]
    done = start(forks, sweep.parent, [*line, *more])
    assert done.returncode == 0, done.stderr
    after = {path: path.stat().st_mtime_ns for path in sweep.glob("*/*/*/result.json")}
    assert {path: after[path] for path in before} == before
    new = {str(path.parent.relative_to(sweep)) for path in after.keys() - before.keys()}
    expected = {f"optimizer={name}/final/seed=9" for name in NAMES}
    assert new == expected | {"optimizer=twin/final/seed=7"}


@pytest.mark.slow
def test_equal_seconds_are_measured_once_and_kept(tmp_path, forks):
    line = ["optimizer=adamw,sgd", "tournament.trials=1", "tournament.seeds=[7]"]
    line += ["tournament.budget=seconds", "tournament.untuned=false"]
    done = start(forks, tmp_path, [*SMALL, *line])
    assert done.returncode == 0, done.stderr
    found = read_tournament(tmp_path / "t")
    assert set(found.seconds) == {"optimizer=adamw", "optimizer=sgd"}
    first, second = found.entries
    ratio = found.seconds["optimizer=adamw"] / found.seconds["optimizer=sgd"]
    assert (first.updates, second.updates) == (12, max(1, round(12 * ratio)))
    for entry in found.entries:
        result = json.loads((tmp_path / f"t/{entry.study}/final/seed=7/result.json").read_text())
        assert result["steps"] == entry.updates
    assert not any(".timing" in run.directory.parts for run in read_runs([tmp_path]).runs)
    done = start(forks, tmp_path, ["-m", "resume=t"])
    assert done.returncode == 0, done.stderr
    assert read_tournament(tmp_path / "t") == found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_workers_of_other_launchers_share_the_runs(tmp_path, forks, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    line = ["optimizer=adamw,sgd", "tournament.trials=2", "tournament.seeds=[7,8]"]
    done = start(forks, tmp_path, [*SMALL, *line, f"hydra/launcher={launcher}"])
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "t"
    assert len([*sweep.glob("*/*/*/result.json")]) == 2 * (2 + 2 + 2)
    logs = "".join(path.read_text() for path in sweep.glob(".workers/*/log.txt"))
    for path in sweep.glob("*/*/*/job.json"):
        place = path.parent.relative_to(sweep)
        assert logs.count(f"{place}: completed") == 1, place
