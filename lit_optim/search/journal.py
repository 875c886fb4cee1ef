"""Optuna's journal file, mended: what a kill leaves behind stops nobody.

A journal is a file to which each process appends lines, under a lock. A process that is killed
while it writes leaves half a line, to which the next one would add its own; here that half is cut
off. For the lock see `journal_lock`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lit_optim.search.journal_lock import JournalLock
from lit_optim.untrusted import Unreadable

#: Half a line that grows within this time is being written, by a program that ignores the lock.
SECONDS_TO_GROW = 0.2
#: How every line begins.
START = b'{"op_code":'
BLOCK = 1 << 16  # bytes that are read at a time


def open_journal(path: Path, tell: Callable[[str], None]) -> JournalStorage:
    """Open a journal, or begin one.

    Args:
        path: of the file.
        tell: is called with a line for whatever is mended, now or later.

    Raises:
        Unreadable: it is no regular file, or something else than a journal; nothing is changed.
        OSError: it cannot be read or written.
    """
    if path.exists() and not path.is_file():  # opening a FIFO would wait
        raise Unreadable(f"{path}: is not a regular file")
    _check_start(path)
    journal = Journal(path, tell)
    journal.mend()
    try:
        storage = JournalStorage(journal)
        _check_end(path)
        return storage
    except OSError:
        raise
    except Exception:  # whatever a line leads to that Optuna has not written
        where = _find_damage(path)
        raise Unreadable(f"{path}{where}: is not a line of a journal of Optuna") from None


def _check_start(path: Path) -> None:
    """Refuse what is no journal before it is mended: other text may end without a line break."""
    try:
        with path.open("rb") as file:
            start = file.read(len(START))
    except FileNotFoundError:
        return
    if not START.startswith(start):
        raise Unreadable(f"{path}: is not a journal of Optuna")


def _check_end(path: Path) -> None:
    """Refuse a last line that is no JSON: Optuna leaves it out until another one follows."""
    line = b"{}"
    with path.open("rb") as file:
        for line in file:  # noqa: B007
            pass
    json.loads(line)


def _find_damage(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if "op_code" not in json.loads(line):
                    return f":{number}"
            except (ValueError, TypeError, RecursionError):
                return f":{number}"
    return ""


class Journal(JournalFileBackend):
    """A journal file whose end is whole whenever something is added.

    Args:
        path: of the file, which is created if it is missing.
        tell: is called with a line for whatever is mended.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path, tell
        self.lock = JournalLock(path, tell)
        super().__init__(str(path))

    def mend(self) -> None:
        """Cut off half a line at the end, which a killed process has left.

        Raises:
            OSError: it cannot be written.
        """
        if self._half_line():
            with self.lock.held():
                self._cut()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Called by Optuna.

        Raises:
            OSError: they cannot be written, and nothing of them is.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.lock.held():
            self._cut()
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _append(handle, content.encode())
            finally:
                os.close(handle)

    def _half_line(self) -> int:
        """The bytes after the last whole line."""
        with self.path.open("rb") as file:
            end = position = file.seek(0, os.SEEK_END)
            while position > 0:
                size = min(BLOCK, position)
                position -= size
                file.seek(position)
                found = file.read(size).rfind(b"\n")
                if found >= 0:
                    return end - position - found - 1
            return end

    def _cut(self) -> None:
        half = self._half_line()
        while half:
            time.sleep(SECONDS_TO_GROW)
            before, half = half, self._half_line()
            if half == before:
                size = self.path.stat().st_size - half
                os.truncate(self.path, size)
                self.tell(f"{self.path}: cut off {half} bytes of a line that was not written whole")
                return


def _append(handle: int, content: bytes) -> None:
    """Write all or nothing."""
    before = os.fstat(handle).st_size
    try:
        written = os.write(handle, content)  # at once: so it is whole, or the disk is full
        while written < len(content):
            written += os.write(handle, content[written:])
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, before)
        raise
