"""The runs of a search: which start when, how they end a trial, and what the store is told."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections import Counter

import pytest

from lit_optim.errors import UsageError
from lit_optim.runs.job import read_job
from lit_optim.runs.layout import STOP
from lit_optim.runs.locks import take_lock
from lit_optim.runs.status import Status
from lit_optim.sweeps.signals import Signals
from tests.search.made_up import Memory, Runs, by_loss, loss, run, search, study


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


def test_a_metric_that_no_run_has_is_told_after_the_first_validation(tmp_path):
    polls = itertools.count()

    def act(run_dir, values, count):
        rows = "step,seconds,evaluations,lr,val/loss\n10,1.0,10,0.1,1.0\n"
        (run_dir / "history.csv").write_text(rows)
        return 130 if next(polls) > 0 else None

    with pytest.raises(UsageError, match=r"search\.metric=val/lose: .*, but val/loss$"):
        run(search(metric="val/lose"), tmp_path, act)
    assert read_job(tmp_path / "trial=000" / "seed=0").status == Status.INTERRUPTED


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
