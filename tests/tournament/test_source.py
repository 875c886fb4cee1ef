"""Which jobs a tournament has, and when."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lit_optim.results.tournament_record import Entry, Task, Tournament, TournamentSettings
from lit_optim.search.data import Search, Settings, Span, Study, Trial, TrialEnd
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.tournament.crashes import Crashes
from lit_optim.tournament.progress import TournamentProgress
from lit_optim.tournament.source import TournamentSource, find_best

STUDIES = [Study(name, (f"optimizer={name}",), {"optimizer.lr": Span(1, 2)}) for name in "ab"]


class Trials:
    """Two trials of each study; the second study is slow."""

    def __init__(self):
        self.waiting = [
            PlannedJob((f"{s.name}{n}",), f"{s.name}/{n}") for s in STUDIES for n in (0, 1)
        ]
        self.left = {job: STUDIES[number // 2] for number, job in enumerate(self.waiting)}
        self.heard = []

    @property
    def is_exhausted(self):
        return not self.left

    def has_ended(self, study):
        return study not in self.left.values()

    def take(self):
        return self.waiting.pop(0) if self.waiting else None

    def put_back(self, job):
        self.waiting.append(job)

    def watch(self, job, run_dir):
        self.heard.append(job)

    def end(self, job, outcome):
        del self.left[job]


def source_of(best=lambda study: Trial(study, 1, {"optimizer.lr": 1.5}), **settings):
    entries = [Entry(s.name, s.name, 10, untuned=(f"optimizer={s.name}", "lr=1")) for s in STUDIES]
    tournament = Tournament(
        "optimizer", [Task({}, entries)], TournamentSettings(**{"seeds": (1, 2)} | settings)
    )
    trials = Trials()

    def lines(trial, seed):
        return [*trial.study.fixed, f"lr={trial.values['optimizer.lr']}", f"seed={seed}"]

    def add(overrides, place):
        return PlannedJob(tuple(overrides), place)

    return TournamentSource(trials, tournament, STUDIES, best, lines, add, Crashes()), trials


def outcome(is_done=True):
    return SimpleNamespace(is_done=is_done)


def places(source):
    found = []
    while (job := source.take()) is not None:
        found.append(job.place)
        source.end(job, outcome())
    return found


def finish(source, count=4):
    for job in [source.take() for _ in range(count)]:
        source.end(job, outcome())


def test_all_trials_come_before_what_is_compared_and_the_default_comes_last():
    source, _ = source_of()
    assert places(source) == [
        *("a/0", "a/1", "b/0", "b/1"),
        *("a/final/seed=1", "a/final/seed=2", "b/final/seed=1", "b/final/seed=2"),
        *("a/untuned/seed=1", "a/untuned/seed=2", "b/untuned/seed=1", "b/untuned/seed=2"),
    ]
    assert source.is_exhausted


def test_a_study_that_has_ended_waits_for_no_other():
    source, _ = source_of()
    jobs = [source.take() for _ in range(4)]
    assert source.take() is None
    for job in jobs[:2]:
        source.end(job, outcome())
    assert source.take().place == "a/final/seed=1"
    assert not source.is_exhausted


def test_the_best_trial_runs_with_fresh_seeds():
    source, _ = source_of()
    finish(source)
    job = source.take()
    assert job.overrides == ("optimizer=a", "lr=1.5", "seed=1")
    assert not source.is_exhausted
    assert source.take().overrides == ("optimizer=a", "lr=1.5", "seed=2")


def test_without_untuned_runs_there_are_none():
    source, _ = source_of(untuned=False)
    assert not any("untuned" in place for place in places(source))


def test_a_study_whose_trials_have_all_failed_has_no_final_runs_but_its_default():
    source, _ = source_of(best=lambda study: None)
    found = places(source)
    assert not any("final" in place for place in found)
    assert sum("untuned" in place for place in found) == 4


def test_a_run_that_crashes_is_started_twice_and_no_more():
    source, _ = source_of(untuned=False)
    finish(source)
    job = source.take()
    others = [source.take() for _ in range(3)]
    source.end(job, outcome(is_done=False))
    assert source.take() == job
    source.end(job, outcome(is_done=False))
    assert source.take() is None
    assert not source.is_exhausted
    for other in others:
        source.end(other, outcome())
    assert source.is_exhausted


def test_a_run_that_is_held_by_another_worker_comes_again():
    source, _ = source_of()
    finish(source)
    held = source.take()
    source.put_back(held)
    assert places(source).count(held.place) == 1
    assert source.is_exhausted


def test_what_is_heard_of_trials_goes_to_their_search(tmp_path):
    source, trials = source_of()
    job = source.take()
    source.watch(job, tmp_path)
    assert trials.heard == [job]
    source.put_back(job)
    finish(source)
    own = source.take()
    source.watch(own, tmp_path)
    assert trials.heard == [job]


def test_a_single_study_has_no_folder_of_its_own():
    study = Study("", ("optimizer=a",), {})
    tournament = Tournament("optimizer", [Task({}, [Entry("", "a", 10)])], TournamentSettings())
    trials = Trials()
    trials.waiting, trials.left = [], {}
    source = TournamentSource(
        trials, tournament, [study], lambda one: Trial(one, 0, {}), lambda t, seed: [str(seed)],
        lambda lines, place: PlannedJob(tuple(lines), place), Crashes(),
    )  # fmt: skip
    assert places(source) == [f"final/seed={seed}" for seed in range(1, 6)]


def test_where_all_trials_have_diverged_the_first_is_compared():
    (study, *_), trials = STUDIES, [Trial(STUDIES[0], n, {}) for n in range(3)]
    kinds = ["failed", "diverged", "diverged"]
    ends = [(t, TrialEnd(kind, 1.0)) for t, kind in zip(trials, kinds, strict=True)]
    assert find_best(SimpleNamespace(best=lambda s: None, ends=lambda s: ends), study) is trials[1]
    assert find_best(SimpleNamespace(best=lambda s: None, ends=lambda s: ends[:1]), study) is None
    both = SimpleNamespace(best=lambda s: ends[2], ends=lambda s: ends)
    assert find_best(both, study) is trials[2]


@pytest.mark.parametrize(("tasks", "best"), [(1, " · best trial 0 of a 0.5"), (2, "")])
def test_the_progress_counts_the_runs_that_are_compared(tasks, best):
    source, trials = source_of()
    trials.search = Search((), STUDIES, Settings(trials=2))
    end = Trial(STUDIES[0], 0, {}), TrialEnd("completed", 0.5)
    trials.ends = {"a": [end], "b": []}
    console = Console(file=io.StringIO(), width=200)
    progress = TournamentProgress(source, tasks, trials, console)
    assert progress.line(200) == f"1/12{best}"
    finish(source)
    job = source.take()
    source.end(job, outcome())
    assert progress.line(200).startswith("2/12")
