"""A run of which nothing could be saved does not end as if all were well."""

from __future__ import annotations

import errno
import os
import signal
from types import SimpleNamespace

import pytest

from lit_optim.checkpoints import files
from lit_optim.errors import TrainingFailed, UsageError
from lit_optim.runs.locks import lock_run_dir
from lit_optim.runs.run import check_saved


def test_nothing_was_ever_written(tmp_path, monkeypatch):
    writer = files.CheckpointFiles()
    trainer = SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=writer))
    check_saved(trainer)  # nothing was to be saved

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    writer.save_checkpoint({}, tmp_path / "last.ckpt")
    with pytest.raises(TrainingFailed, match="could be written: No space left on device"):
        check_saved(trainer)
    monkeypatch.undo()
    writer.save_checkpoint({}, tmp_path / "last.ckpt")
    check_saved(trainer)
    check_saved(SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=None)))


def test_a_lock_that_is_no_file_is_neither_waited_for_nor_written_through(tmp_path):
    fifo, linked, other = tmp_path / "fifo", tmp_path / "linked", tmp_path / "precious"
    for where in (fifo, linked):
        where.mkdir()
    os.mkfifo(fifo / ".lock")
    other.write_text("mine")
    (linked / ".lock").symlink_to(other)

    def late(*args):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        lock_run_dir(fifo).close()
        with pytest.raises(UsageError, match=r"\.lock is a link"):
            lock_run_dir(linked)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert other.read_text() == "mine"
