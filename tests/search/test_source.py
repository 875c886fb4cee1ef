"""The runs of a search: which start when, how they end a trial, and what the store is told."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace

import pytest

from lit_optim.errors import UsageError
from lit_optim.runs.job import own_record, read_job, write_job
from lit_optim.runs.layout import STOP
from lit_optim.runs.locks import take_lock
from lit_optim.runs.status import Status
from lit_optim.search import open_trials
from lit_optim.search.source import TrialsFailed
from lit_optim.sweeps.signals import Signals
from tests.search.made_up import PID, Memory, Runs, by_loss, end_run, loss, run, search, study


def test_the_value_of_a_trial_is_the_mean_over_its_seeds(tmp_path):
    ran = run(search(seeds=(0, 4)), tmp_path, n_jobs=2)
    ends = ran.store.told
    assert [end.value for end in ends.values()] == pytest.approx(
        [loss(lr) + 2 for lr in ran.store.lrs[:3]]
    )
    assert {end.kind for end in ends.values()} == {"completed"}
    assert ends["", 1].attributes["run_dirs"] == ["trial=001/seed=0", "trial=001/seed=4"]
    assert ends["", 1].attributes["steps"] == [100, 100]


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"at": "best"}, loss(1e-3) / 2),
        ({"metric": "val/accuracy", "mode": "max"}, 1 - loss(1e-3)),
    ],
)
def test_a_trial_is_judged_by_the_metric_that_is_asked_for(tmp_path, settings, value):
    ran = run(search(trials=1, **settings), tmp_path)
    assert ran.store.told["", 0].value == pytest.approx(value)


def test_a_metric_that_the_runs_do_not_have_ends_the_search(tmp_path):
    with pytest.raises(
        UsageError, match=r"search\.metric=val/lose: .*, but val/loss, val/accuracy"
    ):
        run(search(metric="val/lose"), tmp_path)


def test_without_a_pruner_every_slot_is_filled(tmp_path):
    together = []

    def act(run_dir, values, count):
        together.append(run_dir)
        return by_loss(run_dir, values, count) if len(together) > 8 else None

    ran = run(search(trials=2, seeds=(0, 1)), tmp_path, act, n_jobs=3)
    assert ran.started == ["trial=000/seed=0", "trial=000/seed=1", "trial=001/seed=0",
                           "trial=001/seed=1"]  # fmt: skip
    assert len({*together[:3]}) == 3


def test_with_a_pruner_the_other_seeds_wait_for_the_first(tmp_path):
    ran = run(search(trials=2, seeds=(0, 1), pruner="median"), tmp_path, n_jobs=2)
    started = ran.started
    assert started[:2] == ["trial=000/seed=0", "trial=001/seed=0"]
    assert sorted(started[2:]) == ["trial=000/seed=1", "trial=001/seed=1"]


def test_a_trial_that_the_pruner_stops_ends_with_its_first_run(tmp_path):
    """Its first run ends at its own next validation; the other seeds never start."""
    looks = iter(range(1, 99))

    def act(run_dir, values, count):
        if (run_dir / STOP).exists() or next(looks) > 60:
            return by_loss(run_dir, values, count)
        steps = [10 * k for k in range(1, len(list(run_dir.glob("mark*"))) + 2)]
        (run_dir / f"mark{len(steps)}").touch()
        rows = "".join(f"{step},1.0,{step},0.1,{step / 10}\n" for step in steps)
        (run_dir / "history.csv").write_text("step,seconds,evaluations,lr,val/loss\n" + rows)
        return None

    searched = search(trials=1, seeds=(0, 1), pruner="median")
    store = Memory(searched)
    store.prunes = lambda trial, step: step >= 30
    ran = run(searched, tmp_path, act, store=store)
    assert ran.started == ["trial=000/seed=0"]
    assert store.reported[:3] == [(0, 10, 1.0), (0, 20, 2.0), (0, 30, 3.0)]
    end = store.told["", 0]
    assert (end.kind, end.value) == ("pruned", pytest.approx(loss(1e-3)))
    assert json.loads((tmp_path / "trial=000/seed=0" / STOP).read_text()) == {"trial": 0}
    assert "1 pruned" in ran.out


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


def test_a_metric_that_no_run_has_is_told_after_the_first_validation(tmp_path):
    polls = itertools.count()

    def act(run_dir, values, count):
        rows = "step,seconds,evaluations,lr,val/loss\n10,1.0,10,0.1,1.0\n"
        (run_dir / "history.csv").write_text(rows)
        return 130 if next(polls) > 0 else None

    with pytest.raises(UsageError, match=r"search\.metric=val/lose: .*, but val/loss$"):
        run(search(metric="val/lose"), tmp_path, act)
    assert read_job(tmp_path / "trial=000" / "seed=0").status == Status.INTERRUPTED


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


def test_studies_take_turns(tmp_path):
    studies = study("a", ["optimizer=adamw"]), study("b", ["optimizer=sgd"])
    ran = run(search(*studies, trials=2), tmp_path)
    told = [*ran.store.told]
    assert told == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert (tmp_path / "b" / "trial=001" / "seed=0" / "result.json").exists()
    assert "4/4 b/trial=001/seed=0: completed · best trial 1 of adamw 0\n" in ran.out


def test_after_the_time_no_trial_begins_and_those_that_have_begun_end(tmp_path):
    now = [0.0]

    def act(run_dir, values, count):
        now[0] += 10
        return by_loss(run_dir, values, count)

    searched = search(trials=4, seeds=(0, 1), timeout=25.0)
    ran = run(searched, tmp_path, act, clock=lambda: now[0])
    assert ran.started == [f"trial=00{n}/seed={seed}" for n in (0, 1) for seed in (0, 1)]
    assert [*ran.store.told] == [("", 0), ("", 1)]
    now[0] = 0.0  # the search is resumed, so its time is counted anew
    again = run(searched, tmp_path, act, clock=lambda: now[0], store=ran.store)
    assert [*again.store.told] == [("", number) for number in range(4)]
    assert "3/4 trial=002/seed=1: completed" in again.out


@pytest.mark.parametrize(("elapsed", "started"), [(0.0, 3), (15.0, 1), (25.0, 0), (1e9, 0)])
def test_the_time_counts_from_the_start_of_the_search_and_not_of_a_worker(
    tmp_path, elapsed, started
):
    now = [0.0]

    def act(run_dir, values, count):
        now[0] += 10
        return by_loss(run_dir, values, count)

    searched = search(trials=4, timeout=25.0)
    ran = run(searched, tmp_path, act, clock=lambda: now[0], elapsed=elapsed)
    assert len(ran.started) == started
    assert ran.source.is_exhausted
    assert ran.source.is_late


def test_a_trial_that_another_process_runs_is_left_to_it_and_taken_over_when_that_dies(tmp_path):
    (tmp_path / "trial=000").mkdir()
    held = take_lock(tmp_path / "trial=000")
    now = [0.0]

    def act(run_dir, values, count):
        if run_dir.parent.name == "trial=002":
            held.close()
        return by_loss(run_dir, values, count)

    def clock():
        now[0] += 0.5
        return now[0]

    ran = run(search(), tmp_path, act, clock=clock)
    assert [*ran.store.told] == [("", 1), ("", 2), ("", 0)]


def test_a_trial_that_another_process_ends_meanwhile_is_not_run(tmp_path):
    searched, now = search(), [0.0]

    class Shared(Memory):
        def propose(self, study, number):
            if number == 1:
                self.told["", 1] = "by another"
            return super().propose(study, number)

        def ends(self, study):
            return [pair for pair in super().ends(study) if pair[1] != "by another"]

    def clock():
        now[0] += 0.5
        return now[0]

    ran = run(searched, tmp_path, store=Shared(searched), clock=clock)
    assert ran.started == ["trial=000/seed=0", "trial=002/seed=0"]
    assert ran.source.is_exhausted
    assert ran.source.has_ended(searched.studies[0])


def test_runs_that_are_done_are_not_repeated_and_their_trial_ends(tmp_path):
    searched = search(trials=2, seeds=(0, 1))
    first = run(searched, tmp_path)
    del first.store.told["", 1]  # killed before it could tell
    (tmp_path / "trial=001/seed=1/job.json").unlink()
    again = run(searched, tmp_path, store=first.store)
    assert again.started == ["trial=001/seed=1"]
    assert again.store.told["", 1].value == pytest.approx(loss(1e-2) + 0.5)


def test_a_run_that_outlived_its_search_is_awaited_and_no_trial_begins_meanwhile(tmp_path):
    """Else the next proposals would be others than those of a search that was not interrupted."""
    run_dir = tmp_path / "trial=000" / "seed=0"
    run_dir.mkdir(parents=True)
    held, waits, asked = take_lock(run_dir), iter(range(3)), []

    class Watched(Memory):
        def propose(self, study, number):
            asked.append((number, next(waits, None) is None))
            return super().propose(study, number)

    class Awaited(Runs):
        def wait(self):
            if next(waits, None) is None:
                held.close()

    searched = search(trials=2)
    ran = run(searched, tmp_path, store=Watched(searched), runs=Awaited(by_loss))
    assert ran.started == ["trial=000/seed=0", "trial=001/seed=0"]
    assert ran.out.count("waiting for process") == 1
    assert asked == [(0, False), (1, True)]


def test_a_file_at_the_place_of_a_trial_stays_and_ends_the_search(tmp_path):
    (tmp_path / "trial=001").write_text("mine")
    with pytest.raises(FileExistsError):  # which the sweeper makes a line of
        run(search(), tmp_path)
    assert (tmp_path / "trial=001").read_text() == "mine"


def test_a_search_of_many_studies_seldom_reads_all_of_them(tmp_path):
    """A study is read when one of its trials has ended; all of them when nothing is left to do."""
    searched, reads = search(*(study(f"s{k}") for k in range(20)), trials=2), Counter()

    class Counted(Memory):
        def unfinished(self, study):
            reads[study.name] += 1
            return super().unfinished(study)

    ran = run(searched, tmp_path, store=Counted(searched))
    assert len(ran.store.told) == 40
    assert max(reads.values()) < 8


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_the_runs_and_the_trial_goes_on_with_the_next_start(tmp_path, number, error):
    """Ctrl-C, or SIGTERM, as a cluster sends it before it kills."""
    signals, polls = Signals(), itertools.count()

    def act(run_dir, values, count):
        if run_dir.parent.name == "trial=001" and count == 1:
            if next(polls) == 0:
                os.kill(os.getpid(), number)
            return None if next(polls) < 3 else 130
        return by_loss(run_dir, values, count)

    before, first = signal.getsignal(signal.SIGTERM), Memory(search())
    try:
        with signals.noting(), pytest.raises(error) as end:
            run(search(), tmp_path, act, store=first, signals=signals)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert number == signal.SIGINT or end.value.code == 143
    assert [*first.told] == [("", 0)]
    record = read_job(tmp_path / "trial=001" / "seed=0")
    assert record.status == Status.INTERRUPTED
    again = run(search(), tmp_path, store=first)
    assert again.started == ["trial=001/seed=0", "trial=002/seed=0"]
    assert [end.kind for end in first.told.values()] == ["completed"] * 3


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
