"""The progress of a sweep: intact at any width; without a terminal, a line per job."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.cells import cell_len
from rich.console import Console

from lit_optim.runs.status import Status
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.progress import SweepProgress, format_time, label_jobs
from tests.sweeps.made_up import DONE, Clock, ended
from tests.terminal import Terminal, screen

OPTIMIZERS = ("adamw", "schedule_free_adamw", "muon")


def planned(jobs):
    return [PlannedJob(tuple(job), ",".join(job)) for job in jobs]


JOBS = planned(
    [f"optimizer={name}", f"scheduler={scheduler}", f"seed={seed}"]
    for name, scheduler, seed in itertools.product(
        OPTIMIZERS, ("cosine_warmup_with_min_lr", "wsd"), (0, 1)
    )
)
NAMES = [job.place for job in JOBS]


def result(value, mode="min"):
    """A result, as it is read; an earlier validation was better."""
    early = {"val/loss": 0.0 if mode == "min" else 1e3}
    return {"monitor": "val/loss", "mode": mode, "final": {}, "best": early, "value": value}


def sweep(console=None, jobs=JOBS):
    clock = Clock()
    console = console or Console(file=io.StringIO())
    return SweepProgress(jobs, console, clock), clock


def test_the_line_shows_count_best_and_remaining_time():
    jobs = planned([[f"optimizer={name}", "seed=0"] for name in ("adamw", "sgd", "muon")])
    progress, clock = sweep(jobs=jobs)
    with progress:
        assert progress.line(80) == "0/3"
        clock.now = 65.0
        progress.add_ended(jobs[0], "a", DONE, result(0.61))
        assert progress.line(80) == "1/3 · best adamw 0.61 · ETA 2:10"
        clock.now = 70.0
        assert progress.line(80) == "1/3 · best adamw 0.61 · ETA 2:05"
        clock.now = 130.0
        progress.add_ended(jobs[1], "b", ended(1), None)
        assert progress.line(80) == "2/3 · best adamw 0.61 · 1 failed · ETA 1:05"
        clock.now = 195.0
        progress.add_ended(jobs[2], "c", DONE, result(0.5))
        assert progress.line(80) == "3/3 · best muon 0.5 · 1 failed"


def test_a_run_that_diverged_is_a_result_and_never_the_best():
    jobs = planned([[f"optimizer={name}", "seed=0"] for name in ("adamw", "sgd", "muon", "lion")])
    progress, _ = sweep(jobs=jobs)
    with progress:
        progress.add_ended(
            jobs[0], "a", ended(1, Status.DIVERGED), result(0.1) | {"diverged": True}
        )
        progress.add_ended(jobs[1], "b", ended(0, Status.PRUNED), result(0.4))
        progress.add_ended(jobs[2], "c", ended(0, Status.FAILED), None)
        assert progress.line(80).startswith("3/4 · best sgd 0.4 · 1 diverged · 1 failed")


def test_huge_values_have_a_mean():
    jobs = planned(
        [[f"optimizer={name}", f"seed={seed}"] for name in ("sgd", "lion") for seed in (0, 1)]
    )
    progress, _ = sweep(jobs=jobs)
    with progress:
        for job in jobs[:2]:
            progress.add_ended(job, "a", DONE, result(1.5e308))
        assert progress.line(80).startswith("2/4 · best sgd 1.5e+308")


@pytest.mark.parametrize(("mode", "best"), [("min", "adamw"), ("max", "sgd")])
def test_the_best_is_so_by_the_mean_over_seeds_and_by_the_mode(mode, best):
    jobs = planned(
        [[f"optimizer={name}", f"seed={k}"] for name in ("adamw", "sgd") for k in range(2)]
    )
    progress, _ = sweep(jobs=jobs)
    for job, value in zip(jobs, (0.3, 0.5, 0.1, 0.9), strict=True):
        progress.add_ended(job, "x", DONE, result(value, mode))
    mean = 0.4 if best == "adamw" else 0.5
    assert progress.line(80) == f"4/4 · best {best} {mean}"


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_what_diverged_is_not_the_best(value):
    progress, _ = sweep()
    progress.add_ended(JOBS[0], "x", DONE, result(value))
    assert "best" not in progress.line(80)
    assert progress.line(80) == "1/12 · ETA 0:00"


def test_the_pace_is_counted_from_the_first_job():
    """What all jobs share is imported before it."""
    progress, clock = sweep()
    with progress:
        clock.now = 30.0
        progress.set_running(JOBS[:1])
        clock.now = 32.0
        progress.add_ended(JOBS[0], "x", DONE, result(0.9))
        progress.set_running(JOBS[1:2])
        assert "ETA 0:22" in progress.line(80)
        clock.now = 34.0
        progress.add_ended(JOBS[1], "x", DONE, result(0.9))
        assert "ETA 0:20" in progress.line(80)


def test_what_was_done_before_counts_but_sets_no_pace():
    progress, clock = sweep()
    with progress:
        for job in JOBS[:6]:
            progress.add_known(job, result(0.5))
        assert progress.line(80).startswith("6/12 · best ")
        assert "ETA" not in progress.line(80)
        clock.now = 10.0
        progress.add_ended(JOBS[6], "x", DONE, result(0.9))
        assert progress.line(80).endswith("ETA 0:50")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
@pytest.mark.parametrize("running", [0, 2])
def test_nothing_that_matters_is_cut_at_any_width(width, running):
    progress, clock = sweep()
    with progress:
        progress.set_running(JOBS[4:6])
        clock.now = 3700.0
        progress.add_ended(JOBS[4], "x", DONE, result(0.123456))
        progress.add_ended(JOBS[5], "x", ended(-9), None)
        progress.set_running(JOBS[:running])
        line = progress.line(width)
    assert cell_len(line) <= width
    assert line.startswith("2/12 · ")
    if width >= 60:
        assert "0.1235" in line
        assert "1 failed" in line
        assert "ETA 5:08:20" in line
        assert "best schedule_free" in line
    if width == 120 and running:
        assert "running adamw" in line


def test_running_seeds_of_one_choice_are_counted():
    jobs = planned(
        [[f"optimizer={name}", f"seed={k}"] for name in ("adamw", "sgd") for k in range(2)]
    )
    progress, _ = sweep(jobs=jobs)
    progress.set_running(jobs[1:])
    assert progress.line(80).endswith("running adamw, sgd x2")


def test_names_in_wide_characters_fit_too():
    jobs = planned([["data.path=数据集数据集数据集数据集", "seed=0"], ["data.path=b", "seed=0"]])
    progress, _ = sweep(jobs=jobs)
    progress.add_ended(jobs[0], "x", DONE, result(0.5))
    for width in range(15, 60):
        assert cell_len(progress.line(width)) <= width
        assert width < 26 or "best" in progress.line(width)
        assert width < 26 or progress.line(width).endswith("ETA 0:00")


LABELS = {
    ("optimizer=adamw", "seed=0"): "adamw",
    ("optimizer=sgd", "optimizer.lr=0.1", "seed=0"): "sgd lr=0.1",
    ("++trainer.gradient_clip_val=1",): "gradient_clip_val=1",
}


def test_labels_say_what_is_swept():
    assert label_jobs([list(job) for job in LABELS]) == LABELS
    assert list(label_jobs([["seed=0"], ["seed=1"]]).values()) == ["seed=0", "seed=1"]
    assert list(label_jobs([["optimizer=sgd"]]).values()) == ["sgd"]
    assert list(label_jobs([[]]).values()) == ["the run"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (9.6, "0:10"), (130, "2:10"), (3599.7, "1:00:00")]
)
def test_times(seconds, text):
    assert format_time(seconds) == text


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_without_a_terminal_each_job_is_one_line(kind, monkeypatch):
    stream = Terminal() if kind == "dumb" else io.StringIO()
    monkeypatch.setenv("TERM", "dumb" if kind == "dumb" else "xterm")
    progress, clock = sweep(Console(file=stream, width=60))
    with progress:
        for k, (job, name) in enumerate(zip(JOBS, NAMES, strict=True), 1):
            progress.set_running([job])
            clock.now += 10
            progress.add_ended(job, name, DONE if k != 5 else ended(1), result(k))
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(JOBS)
    assert "\x1b" not in stream.getvalue()
    assert lines[0] == (
        f"1/12 {NAMES[0]}: completed · best adamw cosine_warmup_with_min_lr 1 · ETA 1:50"
    )
    assert lines[4].startswith(f"5/12 {NAMES[4]}: failed with code 1 · ")
    assert "1 failed" in lines[5]
    assert "ETA" not in lines[-1]


def test_a_terminal_shows_one_live_line(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    progress, clock = sweep(Console(file=terminal, width=60))
    with progress:
        for job in JOBS:
            clock.now += 10
            progress.set_running([job])
            progress.add_ended(job, job.place, DONE, result(0.5))
            progress._live.refresh()
    lines = [line for line in screen(terminal.getvalue()) if line]
    assert lines == ["12/12 · best adamw cosine_warmup_with_min_lr 0.5"]


def test_an_encoding_without_the_dot_gets_a_dash():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    progress, _ = sweep(Console(file=stream, width=60))
    progress.add_ended(JOBS[2], "x", DONE, result(0.5))
    line = progress.line(40)
    assert line.isascii()
    assert line.startswith("1/12 - best adamw wsd 0.5")
