"""Locks of the directories of runs and sweeps: each is used by one process at a time.

A lock is a file `.lock`, locked by `flock` for as long as a process has it open: the system frees
it however that process ends. It says who holds it: `4711 myhost`. A launcher takes the lock of a
run and hands the open file over to the process of the run, so that no other one can come between.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import IO, Any

from lit_optim.environment import is_first
from lit_optim.errors import UsageError, printable
from lit_optim.runs.layout import CHECKPOINTS, LOCK
from lit_optim.system import lock_file, open_lock, share_lock
from lit_optim.temporary import remove_leftovers

#: The environment variable with the number of the open file that a launcher hands over.
HANDED_OVER = "LIT_OPTIM_LOCK"
#: A process that only checks whether a lock is held holds it for a moment itself.
TRIES, SECONDS_BETWEEN = 5, 0.05
MAX_BYTES = 300  # of the process and the host


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Args:
        pid: its number.
        host: the name of its machine.
    """

    pid: int
    host: str

    def __str__(self) -> str:
        where = "" if self.host == gethostname() else f" on {printable(self.host)}"
        return f"process {self.pid}{where}"


class Held(Exception):
    """Another process holds the lock of a directory.

    Args:
        directory: what is locked.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.holder = read_holder(directory)

    def __str__(self) -> str:
        return "" if self.holder is None else f": {self.holder}"


def take_lock(directory: Path) -> IO[bytes]:
    """Lock a directory for this process, until the file is closed or the process ends.

    Raises:
        Held: by another process.
        OSError: nothing can be written there, or the lock is a link.
    """
    file = open_lock(directory / LOCK)
    for attempt in range(TRIES):
        if _try_lock(file):
            sign_lock(file, directory)
            return file
        if attempt < TRIES - 1:
            time.sleep(SECONDS_BETWEEN)
    file.close()
    raise Held(directory)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        return lock_file(file)
    except OSError:  # a file system without locks
        return True


def sign_lock(file: IO[bytes], directory: Path) -> None:
    """Write into a lock which process holds it, unless it is another file by another name."""
    with contextlib.suppress(OSError):
        there = os.lstat(directory / LOCK)
        if stat.S_ISREG(there.st_mode) and there.st_nlink == 1:
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()} {gethostname()}\n".encode())


def read_holder(directory: Path) -> Holder | None:
    """The process that a lock names; None if it names none. It may have ended."""
    try:
        if not (directory / LOCK).is_file():  # a FIFO would wait
            return None
        with (directory / LOCK).open("rb") as file:
            pid, host = file.read(MAX_BYTES).decode("utf-8", "replace").split(maxsplit=1)
        return Holder(int(pid), host.strip())
    except (OSError, ValueError):
        return None


def is_held(directory: Path) -> bool:
    """Whether a process holds the lock of a directory."""
    try:
        if not (directory / LOCK).is_file():
            return False
        with (directory / LOCK).open("rb") as file:
            return not share_lock(file)
    except OSError:
        return False


def lock_run_dir(run_dir: Path) -> AbstractContextManager[Any]:
    """Lock the directory of a run for this process, until the context or the process ends.

    The lock may be one that the launcher of this process has handed over.

    Raises:
        UsageError: another process runs there, or nothing can be written there.
    """
    if not is_first():
        return nullcontext()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = _adopt(run_dir) or take_lock(run_dir)
    except Held as held:
        raise UsageError(f"{run_dir}: another process is running there{held}") from None
    except OSError as error:
        raise UsageError(f"{run_dir}: cannot write there: {error.strerror}") from None
    for directory in (run_dir, run_dir / CHECKPOINTS):
        remove_leftovers(directory)
    return file


def lock_sweep_dir(sweep_dir: Path) -> IO[bytes]:
    """Lock the directory of a sweep, which is created if it is missing.

    Raises:
        UsageError: another process runs this sweep, or nothing can be written there.
    """
    try:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        return take_lock(sweep_dir)
    except Held as held:
        message = f"{sweep_dir}: another process is running this sweep{held}"
        raise UsageError(message) from None
    except OSError as error:
        raise UsageError(f"{sweep_dir}: cannot write there: {error.strerror}") from None


def _adopt(run_dir: Path, environment: MutableMapping[str, str] = os.environ) -> IO[bytes] | None:
    """The lock that was handed over, if it is that of this directory; no child inherits it."""
    given = environment.pop(HANDED_OVER, "")
    if not given.isdecimal():
        return None
    try:
        number = int(given)
        if not os.path.samestat(os.fstat(number), os.stat(run_dir / LOCK)):
            return None
        os.set_inheritable(number, False)
        file = os.fdopen(number, "rb+", buffering=0)
    except (OSError, OverflowError):  # not open, or not for writing
        return None
    if not _try_lock(file):  # someone else's
        file.close()
        return None
    sign_lock(file, run_dir)
    return file
