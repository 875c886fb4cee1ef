"""What a run writes about itself, however it ends and whoever started it."""

from __future__ import annotations

import csv
import json
import logging
import os
import pickle
import platform
import socket
import warnings
from dataclasses import replace

import pytest

from lit_optim.app import _how_to_converge, _how_to_resume, _run_sweep
from lit_optim.config.composing import compose_config
from lit_optim.errors import Diverged, TrainingFailed, UsageError
from lit_optim.runs.failures import Interrupted, JobFailed, classify_error
from lit_optim.runs.job import complete_job, own_record, parse_job, read_job, write_job
from lit_optim.runs.locks import is_held, lock_run_dir
from lit_optim.runs.log_file import print_summary
from lit_optim.runs.recording import recording
from lit_optim.runs.status import Status
from lit_optim.untrusted import Unreadable
from tests.user_code import CUSTOM

LOG = logging.getLogger("lit_optim")


class Local(Exception):
    """Of the user's own, which no other process can read."""

    def __init__(self, first, second):
        super().__init__(first)
        self.unpicklable = lambda: second


#: An error, how a run ends with it, the exit code, the message, and the last line of the log.
ENDS = [
    (UsageError("a=1 is wrong"), "failed", 2, "a=1 is wrong", "lit-optim: a=1 is wrong"),
    (TrainingFailed("no memory"), "failed", 1, "no memory", "lit-optim: no memory"),
    (Diverged("not finite"), "diverged", 1, "not finite", "lit-optim: not finite"),
    (Interrupted("at step 3", 143), "interrupted", 143, "at step 3", "lit-optim: at step 3"),
    (KeyboardInterrupt(), "interrupted", 130, "interrupted", "lit-optim: interrupted"),
    (SystemExit(3), "failed", 3, "the run called sys.exit(3)",
     "lit-optim: the run called sys.exit(3)"),
    (SystemExit("x\x1b[31m"), "failed", 1, "the run called sys.exit(1): x\\x1b[31m",
     "lit-optim: the run called sys.exit(1): x\\x1b[31m"),
    (Local("my own\nmistake", 2), "failed", 1, "Local: my own", "mistake"),
    (RuntimeError(), "failed", 1, "RuntimeError", "RuntimeError"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "status", "code", "message", "last"), ENDS)
def test_how_a_run_ended_is_written(tmp_path, error, status, code, message, last):
    line = ["optimizer=sgd", "++seed=1", "hydra.run.dir=x", "++resume.from='y'"]

    def work():
        begun = json.loads((tmp_path / "job.json").read_text())
        assert (begun["status"], begun["exit_code"]) == ("running", None)
        assert is_held(tmp_path)
        LOG.warning("on the way")
        raise error

    with pytest.raises(type(error)), recording(tmp_path, line, lambda: {"optimizer": "sgd"}):
        work()
    record = json.loads((tmp_path / "job.json").read_text())
    assert record["overrides"] == ["optimizer=sgd", "++seed=1"]
    assert record["choices"] == {"optimizer": "sgd"}
    assert (record["status"], record["exit_code"]) == (status, code)
    assert record["message"] == message
    assert (record["host"], record["pid"]) == (socket.gethostname(), os.getpid())
    assert record["seconds"] >= 0
    assert record["versions"]["python"] == platform.python_version()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert "on the way" in lines
    assert lines[-1] == last
    assert any("Traceback" in line for line in lines) == isinstance(error, RuntimeError | Local)
    assert not is_held(tmp_path)


@pytest.mark.parametrize(("error", "status", "code", "message", "last"), ENDS)
def test_a_failed_job_crosses_processes_as_one_line(error, status, code, message, last):
    failed = JobFailed(classify_error(error).message)
    other = pickle.loads(pickle.dumps(failed))
    assert (type(other), str(other)) == (JobFailed, message)


def test_the_log_has_what_is_logged_warned_and_printed_at_the_end(tmp_path, capsys):
    shown = warnings.showwarning
    with recording(tmp_path, [], dict):
        logging.getLogger("of.another").error("said by another")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("take care", stacklevel=1)
        print_summary([("optimizer", "sgd"), ("steps", "1,000")])
    assert warnings.showwarning is shown
    LOG.warning("said too late")
    text = (tmp_path / "log.txt").read_text()
    for part in ("said by another", "UserWarning: take care", "optimizer  sgd", "1,000"):
        assert part in text
    assert "too late" not in text
    assert "optimizer  sgd" in capsys.readouterr().out
    assert read_job(tmp_path).status == Status.COMPLETED


def test_a_launcher_that_prints_into_the_log_needs_no_second_copy(tmp_path):
    kept = os.dup(1)
    try:
        with (tmp_path / "log.txt").open("a") as file:
            os.dup2(file.fileno(), 1)
        with recording(tmp_path, [], dict):
            LOG.error("once")
            os.write(1, b"printed\n")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert (tmp_path / "log.txt").read_text() == "printed\n"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_log_that_is_no_file_is_left_alone(tmp_path, kind, caplog):
    precious, log = tmp_path / "precious", tmp_path / "run" / "log.txt"
    precious.write_text("kept")
    log.parent.mkdir()
    makers = {"link": lambda: log.symlink_to(precious), "fifo": lambda: os.mkfifo(log)}
    makers.get(kind, log.mkdir)()
    with recording(log.parent, [], dict):
        LOG.warning("something")
    assert precious.read_text() == "kept"
    [told] = [r.message for r in caplog.records if "nothing is logged there" in r.message]
    assert str(log) in told


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with recording(tmp_path / "run", [], dict):
        LOG.warning("of rank 1")
    assert not (tmp_path / "run").exists()


def test_the_record_of_a_run_that_goes_on_elsewhere_is_left_alone(tmp_path):
    write_job(tmp_path, own_record(["seed=1"], {}, {}))
    before = (tmp_path / "job.json").read_bytes()
    refusal = pytest.raises(UsageError, match="another process is running there")
    with lock_run_dir(tmp_path), refusal, recording(tmp_path, ["seed=2"], dict):
        raise AssertionError
    assert (tmp_path / "job.json").read_bytes() == before


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, "completed"), (1, "failed"), (2, "failed"), (-9, "killed"), (130, "interrupted"),
     (143, "interrupted")],
)  # fmt: skip
def test_a_record_of_an_earlier_version_still_reads(tmp_path, code, status):
    """And a launcher adds the same where a process ended without a word."""
    earlier = {"overrides": ["seed=1"], "exit_code": code, "seconds": 1.5, "choices": {"a": "b"}}
    (tmp_path / "job.json").write_text(json.dumps(earlier))
    read = parse_job(tmp_path)
    assert (read.status.value, read.exit_code, read.seconds) == (status, code, 1.5)
    write_job(tmp_path, own_record(["seed=1"], {"a": "b"}, {}))
    added = complete_job(tmp_path, ["seed=1"], {"a": "b"}, code, 1.5, os.getpid(), "said")
    assert added == parse_job(tmp_path)
    # a run of today that has ended well says so itself
    assert added.status.value == ("failed" if code == 0 else status)
    assert (added.exit_code, added.seconds, added.host) == (code, 1.5, socket.gethostname())
    assert added.message


def test_a_launcher_does_not_contradict_the_run(tmp_path):
    with pytest.raises(Diverged), recording(tmp_path, ["seed=1"], dict):
        raise Diverged("not finite")
    before = (tmp_path / "job.json").read_bytes()
    complete_job(tmp_path, ["seed=1"], {}, 1, 9.0, os.getpid())
    assert (tmp_path / "job.json").read_bytes() == before
    of_earlier_start = complete_job(tmp_path, ["seed=1"], {}, -9, 9.0, os.getpid() + 1)
    assert of_earlier_start.status == Status.KILLED


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "", '{"overrides": []}', '{"overrides": [1], "exit_code": 0}',
     '{"overrides": [], "exit_code": true}', '{"overrides": [], "exit_code": null}',
     '{"overrides": [], "status": "odd"}', '{"overrides": [], "status": ["failed"]}'],
)  # fmt: skip
def test_a_record_that_says_nothing_is_refused(tmp_path, content):
    (tmp_path / "job.json").write_text(content)
    with pytest.raises(Unreadable):
        parse_job(tmp_path)


@pytest.mark.parametrize(
    ("how", "raised"),
    [(None, SystemExit), (SystemExit(0), SystemExit), (SystemExit(1), SystemExit),
     (JobFailed("no"), JobFailed), (RuntimeError("of a launcher"), RuntimeError)],
)  # fmt: skip
def test_the_end_of_a_sweep_is_told_whatever_hydra_did(tmp_path, capsys, how, raised):
    record = own_record(["seed=0"], {}, {})
    (tmp_path / "seed=0").mkdir()
    write_job(tmp_path / "seed=0", replace(record, status=Status.FAILED, exit_code=1, message="x"))

    def hydra():
        if how is not None:
            raise how

    with pytest.raises(raised) as end:
        _run_sweep(hydra, tmp_path)
    assert raised is not SystemExit or end.value.code == 1
    assert "seed=0: failed with code 1" in capsys.readouterr().out


def test_ctrl_c_ends_a_sweep_without_a_table(tmp_path, capsys):
    def hydra():
        raise SystemExit(130)

    with pytest.raises(SystemExit) as end:
        _run_sweep(hydra, tmp_path)
    assert (end.value.code, capsys.readouterr().out) == (130, "")


def test_a_run_without_loggers_that_diverges(train, tmp_path):
    done = train("optimizer=sgd", "optimizer.lr=1e30", "data=digits", "model=mlp", "logger=none",
                 "trainer.max_steps=20", "hydra.run.dir=here")  # fmt: skip
    assert done.returncode == 1
    line = "lit-optim: the loss is not finite at step 2"
    advice = "optimizer.lr below 1e+30, scheduler.warmup above 5%, trainer.gradient_clip_val=1"
    assert done.stderr.splitlines()[-2:] == [line, f"what may help: {advice}"]
    here = tmp_path / "here"
    assert (here / "log.txt").read_text().splitlines()[-1] == line
    assert json.loads((here / "job.json").read_text())["status"] == "diverged"
    result = json.loads((here / "result.json").read_text())
    assert (result["diverged"], result["steps"], result["evaluations"]) == (True, 2, 2)
    assert 0 <= result["value"] < 0.4  # the accuracy of guessing
    [header] = csv.reader((here / "history.csv").open())
    assert header == ["step", "seconds", "evaluations", "lr"]


@pytest.mark.usefixtures("user_code")
def test_a_sweep_in_one_process_goes_on_after_a_job_that_fails(train, tmp_path):
    """Hydra's basic launcher: every job is a function call, and the end is that of all sweeps."""
    line = [*CUSTOM, "model.width=5", "hydra.sweep.dir=sweep", "hydra/launcher=basic"]
    done = train("-m", *line, "model.crash=no,raise,exit,infinite")
    assert done.returncode == 1
    names = {"no": "completed", "raise": "failed", "exit": "failed", "infinite": "diverged"}
    for crash, status in names.items():
        run_dir = tmp_path / "sweep" / f"model.crash={crash}"
        assert read_job(run_dir).status.value == status
        assert (run_dir / "result.json").exists() == (status != "failed")
    assert "RuntimeError: my own mistake" in done.stdout
    assert "the run called sys.exit(3)" in done.stdout
    assert "model.crash=infinite:" not in done.stdout  # no failure
    assert "HYDRA_FULL_ERROR" not in done.stderr
    assert (tmp_path / "sweep" / "report.html").exists()
    again = train("-m", *line, "model.crash=no,infinite", "resume=sweep")
    assert again.returncode == 1  # the directory still has jobs that failed
    assert "2 of 2 runs already done" in again.stderr


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "to resume it, add resume=auto to the same command"),
        (["resume=none"], "to resume it, add resume=auto to the same command"),
        (["resume=auto"], "to resume it, type the same command again"),
        (["resume=runs/x"], "to resume it, type the same command again"),
        (["branch_from=x.ckpt"], "a branch is not resumed; the same command begins it again"),
    ],
)
def test_how_an_interrupted_run_is_resumed(typed, told):
    lines = [line.replace("resume=", "resume.from=") for line in typed]
    assert _how_to_resume(compose_config(lines)) == told


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            ["optimizer.lr=0.5", "scheduler.warmup=30"],
            "optimizer.lr below 0.5, scheduler.warmup above 30, trainer.gradient_clip_val=1",
        ),
        (["optimizer.lr=3", "scheduler=none", "trainer.gradient_clip_val=1"],
         "optimizer.lr below 3"),
        (["optimizer=adafactor_hf", "scheduler=none", "trainer.gradient_clip_val=0.5"], None),
    ],
)  # fmt: skip
def test_what_may_keep_a_run_from_diverging(typed, told):
    cfg = compose_config(typed)
    assert _how_to_converge(cfg) == (f"what may help: {told}" if told else "")
