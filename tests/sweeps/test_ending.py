"""The ends of jobs, and of their sweep: what failed, how, and what it said last."""

from __future__ import annotations

import errno
import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from lit_optim.runs import job as job_records
from lit_optim.runs.job import JobRecord, status_of_exit
from lit_optim.runs.locks import take_lock
from lit_optim.runs.status import Status
from lit_optim.sweeps.describing import describe_job
from lit_optim.sweeps.ending import end_sweep
from lit_optim.sweeps.jobs import Job, record_end
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.pool import ending_in_a_line
from lit_optim.sweeps.signals import Terminated
from tests.results.directories import write_run
from tests.results.searches import write_place, write_search


def test_exits_in_words():
    def words(code, status=None, message=""):
        return describe_job(JobRecord([], code, {}, status or status_of_exit(code), message))

    assert [words(code) for code in (0, 2, 130, -9)] == [
        "completed", "failed with code 2", "interrupted", "killed by SIGKILL",
    ]  # fmt: skip
    assert words(1, Status.DIVERGED, "the loss is NaN") == "diverged"
    assert words(None, Status.KILLED) == "killed"
    assert words(0, Status.FAILED, "ended without a result") == "ended without a result"
    assert words(2, Status.FAILED, "no such key") == "failed with code 2"
    assert words(None, Status.FAILED) == "failed"


def test_a_run_whose_end_could_not_be_written_counts_as_failed(tmp_path, capsys):
    for name, record in (("a", '{"overrides": [], "exit_code": 0}'), ("b", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.txt").write_text("No space left on device\n")
        if record:
            (tmp_path / name / "job.json").write_text(record)
    (tmp_path / "c").mkdir()  # cut off by another start, and not asked for by this one
    (tmp_path / "c" / "log.txt").touch()
    planned = {"line": [], "jobs": {"a": ["seed=0"], "b": ["seed=1"]}}
    (tmp_path / "sweep.json").write_text(json.dumps(planned))
    assert end_sweep(tmp_path)
    out = capsys.readouterr().out
    assert (
        f"b: how it ended could not be written: a full disk?; {tmp_path / 'b' / 'log.txt'}" in out
    )
    assert "\n  last line of its log: No space left on device\n" in out
    assert "c:" not in out


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(143), 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_a_sweep_with_a_line(tmp_path, error, code):
    console = Console(file=io.StringIO(), width=40)
    with pytest.raises(SystemExit) as end, ending_in_a_line(console, tmp_path, lambda: "1 of 2"):
        raise error
    assert end.value.code == code
    said = console.file.getvalue()
    assert said == f"lit-optim: interrupted with 1 of 2 done: {tmp_path}\n"


def test_what_ends_with_a_line_of_its_own_says_no_more(tmp_path):
    console = Console(file=io.StringIO())
    with pytest.raises(SystemExit) as end, ending_in_a_line(console, tmp_path, lambda: "1 of 2"):
        raise SystemExit(2)
    assert (end.value.code, console.file.getvalue()) == (2, "")


def test_the_path_of_a_log_can_be_copied(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "x" * 80, ["optimizer=adamw"], code=3)
    monkeypatch.setenv("COLUMNS", "40")
    assert end_sweep(tmp_path)
    assert str(tmp_path / ("x" * 80) / "log.txt") in capsys.readouterr().out


def test_a_failed_trial_of_a_search_is_told_with_its_place(tmp_path, capsys):
    """A run that another process has in hand is none of this one's failures."""
    write_search(tmp_path, {"": ["optimizer.lr"]})
    for number, code in ((0, 0), (1, -9), (2, 1)):
        lr = {"optimizer": "adamw", "optimizer.lr": f"0.0{number + 1}"}
        write_place(tmp_path, f"trial=00{number}/seed=0", 0.5, lr, code=code)
    (tmp_path / "trial=001/seed=0/log.txt").write_text("one\ntwo\n")
    held = take_lock(tmp_path / "trial=002" / "seed=0")
    assert end_sweep(tmp_path)
    out = capsys.readouterr().out
    log = tmp_path / "trial=001/seed=0/log.txt"
    assert f"trial=001/seed=0: killed by SIGKILL; {log}\n  last line of its log: two\n" in out
    assert "trial=002/seed=0:" not in out
    held.close()
    assert end_sweep(tmp_path)
    assert "trial=002/seed=0: failed with code 1; " in capsys.readouterr().out


def test_a_job_whose_end_cannot_be_written_is_not_done(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job_records, "write_job", full)
    job = Job(PlannedJob((), "job"), tmp_path, SimpleNamespace(pid=1 << 30), 0.0, {})
    record = record_end(job, 0)
    assert (record.is_done, describe_job(record)) == (False, "how it ended could not be written")
    assert describe_job(record_end(job, -9)) == "killed by SIGKILL"
