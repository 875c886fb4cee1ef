"""A run of a search fails, is refused, diverges or meets a full disk: what its trial ends as."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from dataclasses import replace

import pytest

from lit_optim.runs.job import own_record, read_job, write_job
from lit_optim.runs.layout import STOP
from lit_optim.runs.status import Status
from lit_optim.search import open_trials
from lit_optim.search.source import TrialsFailed
from tests.search.made_up import PID, Memory, Runs, by_loss, end_run, run, search


def test_a_run_that_crashes_is_started_once_again(tmp_path):
    def act(run_dir, values, count):
        crashes = run_dir.parent.name == "trial=001" and values["seed"] == "1" and count == 1
        return -9 if crashes else by_loss(run_dir, values, count)

    ran = run(search(seeds=(0, 1)), tmp_path, act)
    assert ran.started.count("trial=001/seed=1") == 2
    assert len(ran.started) == 7
    assert [end.kind for end in ran.store.told.values()] == ["completed"] * 3


def test_a_trial_has_failed_after_two_crashes_and_the_search_goes_on(tmp_path):
    def act(run_dir, values, count):
        return -9 if run_dir.parent.name == "trial=001" else by_loss(run_dir, values, count)

    ran = run(search(seeds=(0, 1)), tmp_path, act)
    kinds = {number: end.kind for (_, number), end in ran.store.told.items()}
    assert kinds == {0: "completed", 1: "failed", 2: "completed"}
    assert ran.store.told["", 1].attributes["message"] == "killed by SIGKILL"
    assert ran.started.count("trial=001/seed=0") + ran.started.count("trial=001/seed=1") == 3
    assert "1 failed" in ran.out


def test_a_run_that_is_refused_is_not_started_again(tmp_path):
    def act(run_dir, values, count):
        return 2 if run_dir.parent.name == "trial=001" else by_loss(run_dir, values, count)

    ran = run(search(), tmp_path, act)
    assert ran.started == [f"trial=00{number}/seed=0" for number in range(3)]
    assert ran.store.told["", 1].kind == "failed"


@pytest.mark.parametrize(("code", "starts"), [(2, 1), (-9, 2), (1, 2)])
@pytest.mark.parametrize(("trials", "tried"), [(1, 1), (2, 2), (8, 3)])
def test_where_no_run_works_no_trial_is_to_blame(tmp_path, code, starts, trials, tried):
    """On a machine that lacks a package, or by a worker with another line than the search."""
    searched, runs = search(trials=trials), Runs(lambda *_: code)
    store = Memory(searched)
    with pytest.raises(
        TrialsFailed, match=r"trial=000 .*failed, and no run has worked here"
    ) as end:
        run(searched, tmp_path, store=store, runs=runs)
    assert end.value.code == (2 if code == 2 else 1)
    assert (len(runs.started), store.told) == (tried * starts, {})
    elsewhere = run(searched, tmp_path, store=store)  # where the runs work
    assert [end.kind for end in elsewhere.store.told.values()] == ["completed"] * trials
    records = [read_job(tmp_path / f"trial=00{k}" / "seed=0") for k in range(tried)]
    assert all(record.is_done for record in records)


@pytest.mark.parametrize("code", [2, -9])
def test_a_failure_is_told_once_another_run_has_worked(tmp_path, code):
    def act(run_dir, values, count):
        bad = run_dir.parent.name in ("trial=000", "trial=001")
        return code if bad else by_loss(run_dir, values, count)

    ran = run(search(trials=4), tmp_path, act)
    kinds = [end.kind for _, end in sorted(ran.store.told.items())]
    assert kinds == ["failed", "failed", "completed", "completed"]


@pytest.mark.parametrize(("code", "is_told"), [(-9, True), (2, False)])
def test_what_has_worked_on_this_machine_before_counts_for_a_crash(tmp_path, code, is_told):
    searched = search(trials=2)
    store = run(searched, tmp_path).store
    del store.told["", 1]
    shutil.rmtree(tmp_path / "trial=001")
    if is_told:
        run(searched, tmp_path, lambda *_: code, store=store)
        assert store.told["", 1].kind == "failed"
    else:
        with pytest.raises(TrialsFailed):
            run(searched, tmp_path, lambda *_: code, store=store)
        assert ("", 1) not in store.told


def test_a_disk_that_is_full_on_this_machine_is_no_failure_of_a_trial(tmp_path):
    def act(run_dir, values, count):
        if run_dir.parent.name != "trial=001":
            return by_loss(run_dir, values, count)
        lines = [f"{key}={value}" for key, value in values.items()]
        message = f"OSError: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: 'events'"
        record = replace(own_record(lines, {}, {}), pid=PID, status=Status.FAILED, exit_code=1)
        write_job(run_dir, replace(record, message=message))
        return 1

    store = Memory(search())
    with pytest.raises(TrialsFailed, match="No space left on device") as end:
        run(search(), tmp_path, act, store=store)
    assert (end.value.code, [*store.told]) == (1, [("", 0)])


@pytest.mark.parametrize("worst", [5.0, math.nan])
def test_a_run_that_diverges_ends_its_trial(tmp_path, worst):
    """Seeds that run already are stopped; others do not start."""
    seen = []

    def act(run_dir, values, count):
        seen.append(values["seed"])
        if values["seed"] == "1":
            return worst, Status.DIVERGED
        stopped = (run_dir / STOP).exists() or len(seen) > 50
        return by_loss(run_dir, values, count) if stopped else None

    ran = run(search(trials=1, seeds=(0, 1, 2)), tmp_path, act, n_jobs=2)
    assert sorted(ran.started) == ["trial=000/seed=0", "trial=000/seed=1"]
    end = ran.store.told["", 0]
    assert (end.kind, end.value) == ("diverged", None if math.isnan(worst) else 5.0)
    assert (tmp_path / "trial=000/seed=0" / STOP).exists()


def test_a_seed_that_was_stopped_since_another_diverged_does_not_end_the_trial_itself(tmp_path):
    """The search was killed before it could tell: the diverged run says how the trial ended."""
    lines = ["optimizer=adamw", "++optimizer.lr=0.001"]
    for seed, end in ((0, (3.0, Status.PRUNED)), (1, (5.0, Status.DIVERGED))):
        run_dir = tmp_path / "trial=000" / f"seed={seed}"
        run_dir.mkdir(parents=True)
        (run_dir / "log.txt").touch()
        overrides = [*lines, f"++seed={seed}"]
        (run_dir / "asked.json").write_text(json.dumps({"overrides": sorted(overrides)}))
        end_run(run_dir, overrides, end)
    ran = run(search(trials=1, seeds=(0, 1, 2)), tmp_path)
    assert ran.started == []
    assert ran.store.told["", 0].kind == "diverged"


def test_a_run_that_a_full_disk_keeps_from_being_stopped_runs_to_its_end(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(open_trials, "write_json", full)

    def act(run_dir, values, count):
        rows = "step,seconds,evaluations,lr,val/loss\n10,1.0,10,0.1,1.0\n"
        is_new = not (run_dir / "history.csv").exists()
        (run_dir / "history.csv").write_text(rows)
        return None if is_new else by_loss(run_dir, values, count)

    searched = search(trials=1, pruner="median")
    store = Memory(searched)
    store.prunes = lambda trial, step: True
    ran = run(searched, tmp_path, act, store=store)
    assert ran.store.told["", 0].kind == "completed"
