"""Differences between operating systems; no other module calls functions that only POSIX has."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

#: Arguments of `subprocess.Popen` for a process that is signaled together with its children.
OWN_GROUP: dict[str, Any] = (
    {"start_new_session": True}
    if hasattr(os, "killpg")
    else {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
)
#: The most bytes of a name in a directory, and of a path that leaves room for the files below it.
LONGEST_NAME, LONGEST_PATH = 255, 3500
#: How often, and after which pauses, Windows is asked to replace a file that is open.
TRIES, SECONDS_BETWEEN = 20, 0.05
#: SIGHUP, once it has come.
_hangups: list[int] = []


class Process(Protocol):
    """A process that was started with `OWN_GROUP`."""

    @property
    def pid(self) -> int:
        """Its number."""


def find_excess(path: str) -> str | None:
    """Why a path is too long, at which the system raises even when asked whether it exists."""
    if any(len(name.encode(errors="replace")) > LONGEST_NAME for name in path.split("/")):
        return f"no file has a name of more than {LONGEST_NAME} bytes"
    if len(path.encode(errors="replace")) > LONGEST_PATH:
        return f"a path has at most {LONGEST_PATH:,} bytes"
    return None


def call_after_fork(function: Callable[[], None]) -> None:
    """Call a function in every child process that is forked from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def call_before_fork(function: Callable[[], None]) -> None:
    """Call a function before every fork of this process from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=function)


def can_fork() -> bool:
    """Whether a process can be forked, and open files handed over to it: on Linux.

    On macOS the system's own libraries fail in a fork.
    """
    parts = (hasattr(os, "memfd_create"), hasattr(socket, "send_fds"), hasattr(os, "fork"))
    return sys.platform == "linux" and all(parts)


def fork() -> int:
    """Fork this process; return the number of the child, and 0 in the child."""
    return os.fork()


def start_session() -> None:
    """Make this process the first of a session and a group of its own."""
    os.setsid()


def has_ended(pid: int) -> bool:
    """Whether a process has ended, even if nobody has waited for it; on Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    return fields[0] in (b"Z", b"X")


def open_lock(path: Path) -> IO[bytes]:
    """Open a file that is to be locked, which is created if it is missing.

    Raises:
        OSError: it is a link, through which a file elsewhere would be created, or cannot be made.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a link")
    # not "w": that would wait for the other end of a FIFO, and empty what another has written
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "rb+", buffering=0)


def lock_file(file: IO[Any]) -> bool:
    """Lock an open file for this process, until the file is closed.

    Returns:
        False if another process holds the lock. Without `flock` nothing is locked.

    Raises:
        OSError: the file system has no locks.
    """
    return _lock(file, "LOCK_EX")


def share_lock(file: IO[Any]) -> bool:
    """Lock an open file beside others that only look, until it is closed.

    Returns:
        False if a process holds it by `lock_file`. Without `flock` nothing is locked.

    Raises:
        OSError: the file system has no locks.
    """
    return _lock(file, "LOCK_SH")


def _lock(file: IO[Any], kind: str) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, getattr(fcntl, kind) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_directory(path: Path) -> None:
    """Make renames within a directory durable; Windows cannot open directories.

    Raises:
        OSError: the file system cannot do it.
    """
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_private(path: Path) -> bool:
    """Whether only this user, or root, can have written a file; assumed where there are no owners.

    Raises:
        OSError: there is no such file.
    """
    if not hasattr(os, "geteuid"):
        return True
    status = os.stat(path)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH


def replace_file(source: Path, target: Path) -> None:
    """Rename a file, over one that may be there.

    Windows refuses that while any process has the other file open, such as one that reads it or a
    virus scanner, so there it is tried again for a second.

    Raises:
        OSError: it cannot be done.
    """
    for _ in range(TRIES if os.name == "nt" else 0):
        try:
            os.replace(source, target)
        except PermissionError:
            time.sleep(SECONDS_BETWEEN)
        else:
            return
    os.replace(source, target)


def move_directory(source: Path, empty: Path) -> None:
    """Move a directory to where an empty one is, which Windows replaces by none.

    Raises:
        OSError: it cannot be done; on Windows also if a file in it is open.
    """
    if os.name == "nt":
        empty.rmdir()
    os.rename(source, empty)


def is_running(pid: int) -> bool:
    """Whether a process with this number exists; assumed if the system cannot say."""
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process; on Windows most of them kill it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def interrupt_group(process: Process) -> None:
    """Send Ctrl-C to a process that was started with `OWN_GROUP`, and to its children."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))


def kill_group(process: Process) -> None:
    """Kill a process that was started with `OWN_GROUP`, and where possible its children."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        else:
            os.kill(process.pid, signal.SIGTERM)  # on Windows this kills it


def accept_interrupts() -> None:
    """On Windows, treat Ctrl-Break as Ctrl-C: only that can be sent to another process."""
    if hasattr(signal, "SIGBREAK"):
        signal.signal(signal.SIGBREAK, signal.default_int_handler)


def accept_hangups() -> None:
    """Treat the end of the terminal, SIGHUP, as SIGTERM, unless it is ignored as by nohup."""
    number = getattr(signal, "SIGHUP", None)  # Windows has none
    if number is not None and signal.getsignal(number) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):  # in a thread
            signal.signal(number, partial(_hang_up, os.getpid()))


def _hang_up(process: int, number: int, frame: FrameType | None) -> None:
    # it comes again, from the shell and from the system; and to forks such as the workers of a
    # loader, which the process needs until it has saved
    if _hangups or os.getpid() != process:
        return
    _hangups.append(number)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # there is nothing to save
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    else:
        signal.raise_signal(signal.SIGTERM)


def termination_code() -> int:
    """The exit code after SIGTERM, or after the signal that was treated as such."""
    return 128 + (_hangups[0] if _hangups else signal.SIGTERM)


def signal_name(number: int) -> str:
    """The name of a signal, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def usable_cpus() -> int:
    """The CPUs that this process may run on, by its affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """How many processes ran or waited for a CPU in the last minute, on average; 0 if unknown."""
    try:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    except OSError:
        return 0.0


def seconds_of_others(path: Path = Path("/proc/stat")) -> float | None:
    """The seconds that all CPUs have computed for other processes; None if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = path.read_text("utf-8").partition("\n")[0].split()
        user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields[1:9])
        used = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return used - sum(os.times()[:4])
    return None
