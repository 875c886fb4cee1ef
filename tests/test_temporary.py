"""What a dead process left is removed, what a live one is writing is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lit_optim import temporary
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.kernels import compiler
from lit_optim.runs.locks import lock_run_dir
from lit_optim.sweeps.records import record_sweep
from lit_optim.tasks.classification import Mnist1d
from lit_optim.temporary import OLD_SECONDS, is_running, remove_leftovers, temporary_beside


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


LEFT = [
    ".best.ckpt.{}.tmp",
    ".best.ckpt.sha256.{}.tmp",
    ".last.ckpt.{}.tmp",
    ".job.json.{}.tmp",
    "." + "a" * 32 + ".so.{}.140231.tmp",
    "a" * 32 + ".so.{}.140231",  # of an earlier version
]
KEPT = ["best.ckpt", "last.ckpt.sha256", ".lock", "a" * 32 + ".so", "mnist1d.npz", "x.{}.tmp",
        ".tmp", ".x.tmp", "tmpfile", "notes.npz"]  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_of_the_dead_only(tmp_path, dead, alive, name):
    left, live = tmp_path / name.format(dead), tmp_path / name.format(alive)
    for path in (left, live):
        path.touch()
    remove_leftovers(tmp_path)
    assert (left.exists(), live.exists()) == (False, True)
    long_ago = live.stat().st_mtime - OLD_SECONDS - 60
    os.utime(live, (long_ago, long_ago))  # the number has been given to another process meanwhile
    remove_leftovers(tmp_path)
    assert not live.exists()


def test_nothing_else_is_touched(tmp_path, dead, monkeypatch):
    for name in KEPT:
        path = tmp_path / name.format(dead)
        path.touch()
        os.utime(path, (0, 0))
    (tmp_path / f".dir.{dead}.tmp").mkdir()
    (tmp_path / f".link.{dead}.tmp").symlink_to(tmp_path / "best.ckpt")
    before = sorted(tmp_path.iterdir())
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    remove_leftovers(tmp_path / "missing")


def test_unnamed_ones_go_when_they_are_old(tmp_path):
    fresh, old = tmp_path / "tmpabcd1234.npz", tmp_path / "tmp1234_bcd.npz"
    fresh.touch()
    old.touch()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert (fresh.exists(), old.exists()) == (True, False)


def test_processes(dead, alive, monkeypatch):
    assert not is_running(dead)
    assert is_running(alive)
    assert is_running(os.getpid())
    assert is_running(1)  # of someone else
    assert not is_running(10**30)
    monkeypatch.setattr(temporary.os, "name", "nt")
    monkeypatch.delattr(temporary.os, "kill")  # signal 0 would be Ctrl-C there
    assert is_running(dead)


def a_run(where):
    lock_run_dir(where).close()
    return where / "checkpoints"


def a_checkpoint(where):
    CheckpointFiles().save_checkpoint({"x": 1}, where / "best.ckpt")
    return where


def a_sweep(where):
    record_sweep(where, [], {})
    return where


def the_data(where):
    Mnist1d().arrays()
    return where / "lit_optim"


def a_kernel(where):
    compiler._clean_once.cache_clear()
    compiler.load_kernel("void step(void *a, void *b, long n, int t) {}")
    return where / "lit_optim" / "kernels"


@pytest.mark.parametrize("start", [a_run, a_checkpoint, a_sweep, the_data, a_kernel])
def test_the_next_start_cleans_up(tmp_path, dead, start, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if start is a_run:
        (tmp_path / "checkpoints").mkdir()
    directory = start(tmp_path)
    left = directory / f".x.{dead}.tmp"
    left.touch()
    ours = temporary_beside(directory / "y")
    ours.touch()
    start(tmp_path)
    assert not left.exists()
    assert ours.exists()
