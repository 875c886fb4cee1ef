"""The progress of a search: its trials, the best of them, and what is left."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lit_optim.search.data import Trial, TrialEnd
from lit_optim.search.progress import SearchProgress
from lit_optim.sweeps.plan import PlannedJob
from tests.search.made_up import search, study
from tests.sweeps.made_up import DONE, Clock, ended

STUDIES = study("a", ["optimizer=adamw"]), study("b", ["optimizer=sgd"])


def make(*studies, console=None, known=(), **settings):
    source = SimpleNamespace(search=search(*studies, **settings), ends={})
    for one in source.search.studies:
        source.ends[one.name] = [pair for pair in known if pair[0].study is one]
    clock = Clock()
    console = console or Console(file=io.StringIO(), width=200)
    return SearchProgress(source, console, clock), source, clock


def end(source, study, kind, value=None):
    """End the next trial of a study."""
    ended = source.ends[study.name]
    ended.append((Trial(study, len(ended), {}), TrialEnd(kind, value)))


def test_the_line_counts_trials_and_names_the_best():
    progress, source, clock = make(*STUDIES, trials=3)
    job = PlannedJob((), "a/trial=000/seed=0")
    with progress:
        assert progress.line(80) == "0/6"
        progress.set_running([job])
        assert progress.line(80) == "0/6 · running a trial=000"
        clock.now = 10.0
        end(source, STUDIES[0], "completed", 0.5)
        progress.add_ended(job, "seed=0", DONE, None)
        progress.set_running([])
        assert progress.line(80) == "1/6 · best trial 0 of adamw 0.5 · ETA 0:50"
        for kind, value in (("completed", 0.25), ("diverged", 9.0), ("failed", None)):
            end(source, STUDIES[1], kind, value)
        end(source, STUDIES[0], "pruned", 0.1)
        text = progress.line(80)
    assert text.startswith(
        "5/6 · best trial 0 of sgd 0.25 · 1 pruned · 1 diverged · 1 failed · ETA"
    )


@pytest.mark.parametrize(("mode", "best"), [("min", "trial 0 0.1"), ("max", "trial 1 0.9")])
def test_the_best_is_so_by_the_mode(mode, best):
    progress, source, _ = make(mode=mode)
    for value in (0.1, 0.9):
        end(source, source.search.studies[0], "completed", value)
    assert f"best {best}" in progress.line(80)


def test_trials_of_an_earlier_start_do_not_change_the_pace():
    known = [(Trial(STUDIES[0], number, {}), TrialEnd("completed", 0.5)) for number in range(2)]
    progress, source, clock = make(STUDIES[0], trials=4, known=known)
    with progress:
        progress.set_running([PlannedJob((), "trial=002/seed=0")])
        assert "ETA" not in progress.line(80)
        clock.now = 30.0
        end(source, STUDIES[0], "completed", 0.7)
        progress.add_ended(PlannedJob((), "trial=002/seed=0"), "seed=0", DONE, None)
    assert progress.line(80) == "3/4 · best trial 0 0.5 · ETA 0:30"


def test_without_a_terminal_each_run_has_a_line():
    out = io.StringIO()
    progress, source, _ = make(console=Console(file=out, width=40), seeds=(0, 1))
    with progress:
        progress.add_ended(PlannedJob((), "trial=000/seed=0"), "seed=0", ended(-9), None)
        end(source, source.search.studies[0], "completed", 0.5)
        progress.add_ended(PlannedJob((), "trial=000/seed=1"), "seed=1", DONE, None)
    assert out.getvalue().splitlines() == [
        "0/3 trial=000/seed=0: killed by SIGKILL",
        "1/3 trial=000/seed=1: completed · best trial 0 0.5 · ETA 0:00",
    ]
