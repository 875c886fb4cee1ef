"""Locks of directories: one process at a time, freed however it ends, handed over as open files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lit_optim.errors import UsageError
from lit_optim.runs import locks
from lit_optim.runs.locks import (
    HANDED_OVER,
    Held,
    Holder,
    is_held,
    lock_run_dir,
    lock_sweep_dir,
    read_holder,
    take_lock,
)

ELSEWHERE = """
    import os, sys
    from pathlib import Path
    from lit_optim.errors import UsageError
    from lit_optim.runs.locks import lock_run_dir
    try:
        held = lock_run_dir(Path(sys.argv[1]))
        print("locked", os.getpid(), "LIT_OPTIM_LOCK" in os.environ, flush=True)
        sys.stdin.read()
    except UsageError as error:
        print(error, flush=True)
"""


@pytest.fixture
def elsewhere():
    """Lock a directory in a process of its own; returns it, and the line that it has printed."""
    processes = []

    def start(directory, handed_over=()):
        environment = dict(os.environ)
        if handed_over:
            environment[HANDED_OVER] = str(handed_over[0])
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(ELSEWHERE), str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            pass_fds=handed_over,
        )  # fmt: skip
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_lock_says_who_holds_it_until_that_process_is_killed(tmp_path, elsewhere):
    process, told = elsewhere(tmp_path / "run")
    assert told == f"locked {process.pid} False"
    assert read_holder(tmp_path / "run") == Holder(process.pid, socket.gethostname())
    assert is_held(tmp_path / "run")
    with pytest.raises(UsageError) as refused:
        lock_run_dir(tmp_path / "run")
    message = f"another process is running there: process {process.pid}"
    assert str(refused.value) == f"{tmp_path / 'run'}: {message}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_held(tmp_path / "run")
    with lock_run_dir(tmp_path / "run"):
        assert read_holder(tmp_path / "run").pid == os.getpid()


def test_a_lock_is_handed_over_without_a_gap(tmp_path, elsewhere):
    with take_lock(tmp_path) as lock:
        process, told = elsewhere(tmp_path, (lock.fileno(),))
        assert told == f"locked {process.pid} False"
    assert is_held(tmp_path)  # ours is closed, and theirs the same open file
    assert read_holder(tmp_path).pid == process.pid
    process.kill()
    process.wait()
    assert not is_held(tmp_path)


@pytest.mark.parametrize("which", ["of another directory", "not locked"])
def test_a_file_that_is_not_this_lock_is_not_taken_for_it(tmp_path, elsewhere, which):
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    is_free = which == "not locked"  # by this open file; this process holds it by another one
    with (
        (ours / ".lock").open("w+b") if is_free else take_lock(other) as handed_over,
        take_lock(ours),
    ):
        _, told = elsewhere(ours, (handed_over.fileno(),))
        assert told.endswith(f"another process is running there: process {os.getpid()}")


@pytest.mark.parametrize("given", ["", "x", "-1", "99999", "9" * 30])
def test_what_is_no_open_file_is_ignored(tmp_path, monkeypatch, given):
    monkeypatch.setenv(HANDED_OVER, given)
    with lock_run_dir(tmp_path):
        assert is_held(tmp_path)
    assert HANDED_OVER not in os.environ


def test_a_sweep_is_run_by_one_process(tmp_path):
    where = tmp_path / "runs" / "sweep"
    with lock_sweep_dir(where), pytest.raises(UsageError) as refused:
        lock_sweep_dir(where)
    message = f"{where}: another process is running this sweep: process {os.getpid()}"
    assert str(refused.value) == message
    lock_sweep_dir(where).close()


def test_a_directory_that_cannot_be_made_is_refused_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/sweep: cannot write there: Not a directory"):
        lock_sweep_dir(tmp_path / "file" / "sweep")


def test_who_only_looks_does_not_keep_a_process_from_starting(tmp_path, monkeypatch):
    import fcntl

    looks = (tmp_path / ".lock").open("w+b")
    fcntl.flock(looks, fcntl.LOCK_SH)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        looks.close()

    monkeypatch.setattr(locks.time, "sleep", wait)
    take_lock(tmp_path).close()
    assert len(waits) == 1


@pytest.mark.parametrize("content", ["", "x", "x y", "12", "\xff" * 9, "1" * 400 + " h"])
def test_a_lock_of_an_earlier_version_names_nobody(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    assert read_holder(tmp_path) is None
    with take_lock(tmp_path):
        assert read_holder(tmp_path).pid == os.getpid()


def test_a_host_is_shown_safely(tmp_path):
    (tmp_path / ".lock").write_text("12 a\x1b[31mb\n")
    assert str(read_holder(tmp_path)) == "process 12 on a\\x1b[31mb"


def test_a_lock_with_other_names_is_not_written_to(tmp_path):
    (tmp_path / "precious").write_text("mine")
    os.link(tmp_path / "precious", tmp_path / ".lock")
    with take_lock(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(Held):
            take_lock(tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_directory_that_is_missing_is_not_held(tmp_path):
    assert not is_held(tmp_path / "missing")
    assert read_holder(Path("/proc/none")) is None
