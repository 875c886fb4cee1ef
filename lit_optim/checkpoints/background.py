"""Writes checkpoints by a thread, and syncs files to the disk."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import torch

from lit_optim.system import call_before_fork

LOG = logging.getLogger("lit_optim")

#: The errors of a full disk, also from an fsync.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Writes a checkpoint by a function that writes its content, and returns whether that was possible.
Put = Callable[[Path, Callable[[Path], str]], bool]


class Job(NamedTuple):
    """A checkpoint that is to be written.

    Args:
        target: where.
        content: the file.
    """

    target: Path
    content: memoryview


class Writing:
    """What a thread writes at the time, if anything."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failed: list[Path] = []
        self._error: BaseException | None = None
        _ALL.add(self)

    def begin(self, jobs: Sequence[Job], put: Put) -> None:
        """Write in this order, up to the first that cannot be written; the others depend on it."""
        self.wait()
        thread = threading.Thread(target=self._run, args=(jobs, put), name="checkpoints")
        self._thread = thread
        thread.start()

    def _run(self, jobs: Sequence[Job], put: Put) -> None:
        left = list(jobs)
        try:
            while left and put(left[0].target, partial(_write, content=left[0].content)):
                del left[0]
        except BaseException as error:  # it is raised where someone waits
            self._error = error
        self._failed += [job.target for job in left]

    def wait(self) -> None:
        """Wait until everything is written."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        if thread.ident is not None:  # else an interrupt came before it was started
            thread.join()
        self._thread = None

    def settle(self) -> list[Path]:
        """Wait until everything is written; returns what could not be, or raises its error."""
        self.wait()
        failed, self._failed = self._failed, []
        error, self._error = self._error, None
        if error is not None:
            raise error
        return failed


#: Those of this process.
_ALL: WeakSet[Writing] = WeakSet()


def _wait_for_all() -> None:
    for writing in list(_ALL):
        writing.wait()


call_before_fork(_wait_for_all)  # a child would have the locks of the thread, and not the thread


def serialize(content: Mapping[str, Any]) -> memoryview:
    """The file of a checkpoint of plain values."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getbuffer()


def _write(path: Path, content: memoryview) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        sync(lambda: os.fsync(file.fileno()))
    return hashlib.sha256(content).hexdigest()


def sync(sync: Callable[[], None]) -> None:
    """Sync to the disk, or warn if the file system cannot.

    Raises:
        OSError: the disk is full.
    """
    try:
        sync()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        _warn_once(
            f"checkpoints cannot be synced to the disk here ({error.strerror or error}): they are "
            "written, but the newest may be lost if the machine goes down"
        )


@cache
def _warn_once(line: str) -> None:
    LOG.warning(line)
