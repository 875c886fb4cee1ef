"""The lock of a journal file, which says whose it is: that of a dead process is cleared at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from lit_optim.system import is_running

#: For a lock of another machine, or of a program that does not sign it: a write takes milliseconds.
SECONDS_TO_WRITE = 5.0
#: For a process of this machine that lives: it may be stopped, or its disk be slow.
SECONDS_OF_THE_LIVING = 30.0
LONGEST_PAUSE = 0.1  # seconds between two looks
OWNER_BYTES = 500
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Seen:
    """A lock as it was found.

    Args:
        inode: of the file.
        changed: when, in nanoseconds.
        text: what it says; empty for the lock of another program.
    """

    inode: int
    changed: int
    text: str

    @property
    def owner(self) -> list[str]:
        """The number of the process, its start, and where it runs; empty if it does not say."""
        words = self.text.split()
        return words[:3] if len(words) == 4 else []


class JournalLock:
    """A file named as Optuna's own lock, so that each waits for the other.

    It is a hard link, which is there whole or not at all, also on NFS.

    Args:
        path: of the journal.
        tell: is called with a line when the lock of a dead process is cleared.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path.with_name(f"{path.name}.lock"), tell
        self._place = _place_of_processes()
        self._text = ""  # of the lock while it is ours

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the lock."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            OSError: no file can be made there.
        """
        pid = os.getpid()
        text = f"{pid} {_start_of(pid)} {self._place} {uuid4().hex}"
        own = self._name_aside()
        own.write_text(text, "utf-8")
        try:
            self._wait(own)
        finally:
            with contextlib.suppress(OSError):
                own.unlink()
        self._text = text

    def _name_aside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{uuid4().hex}")

    def _wait(self, own: Path) -> None:
        seen: Seen | None = None
        since, pause = time.monotonic(), 0.001
        while not self._take(own):
            before, seen = seen, self._look()
            if seen is None or seen != before:
                since = time.monotonic()
            if seen is not None and self._is_stale(seen, time.monotonic() - since):
                self._clear(seen)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _take(self, own: Path) -> bool:
        """Make the lock; False: there is one."""
        try:
            os.link(own, self.path)
            return True
        except FileExistsError:
            return os.stat(own).st_nlink == 2  # on NFS the answer to the first try may be lost
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        try:  # on FAT: a moment later the file says whose it is
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as file:
            file.write(own.read_bytes())
        return True

    def _look(self) -> Seen | None:
        """The lock as it is; None: it has gone."""
        return _read(self.path)

    def _is_stale(self, seen: Seen, seconds: float) -> bool:
        """Whether a lock is of a dead process, or has been the same for too many seconds."""
        if not seen.owner:
            return seconds > SECONDS_TO_WRITE
        pid, start, place = seen.owner
        if place != self._place:
            return seconds > SECONDS_TO_WRITE
        is_alive = pid.isdecimal() and _start_of(int(pid)) == start
        return not is_alive or seconds > SECONDS_OF_THE_LIVING

    def _clear(self, seen: Seen) -> None:
        """Remove a stale lock, unless another process has done so and made its own."""
        aside = self._name_aside()
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if _read(aside) == seen:
            who = f"process {seen.owner[0]}" if seen.owner else "a program"
            self.tell(f"{self.path}: cleared the lock of {who} that has ended")
        else:  # put it back
            with contextlib.suppress(OSError, NotImplementedError):  # the latter on Windows
                os.link(aside, self.path, follow_symlinks=False)
        aside.unlink()

    def release(self) -> None:
        """Give the lock back, unless another process has cleared it."""
        seen, text, self._text = self._look(), self._text, ""
        if seen is not None and text and seen.text == text:
            with contextlib.suppress(OSError):
                self.path.unlink()


def _read(path: Path) -> Seen | None:
    try:
        status = os.lstat(path)
        is_link = path.is_symlink()  # Optuna's, which leads to the journal
        text = "" if is_link or not path.is_file() else _read_text(path)
    except OSError:
        return None
    return Seen(status.st_ino, status.st_mtime_ns, text)


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(OWNER_BYTES).decode("utf-8", "replace")


def _place_of_processes() -> str:
    """Where the number of a process means the same: a machine, and on Linux a container of it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = "-"
    return "".join(f"{socket.gethostname()}/{space}".split())


def _start_of(pid: int) -> str:
    """When a process began, as the system counts; empty if it has ended.

    Another process may have its number since then.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    return "-" if is_running(pid) else ""
