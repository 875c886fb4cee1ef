"""Temporary files beside what they become: named after their process, removed when it is dead."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

#: `.best.ckpt.4711.tmp`; with the thread's number where several write at once. The other two are
#: what earlier versions left in the caches.
NAME = re.compile(r"\..+?\.(?P<pid>\d{1,10})(\.\d+)?\.tmp|[0-9a-f]{32}\.so\.(?P<old>\d+)\.\d+")
UNNAMED = re.compile(r"tmp\w{8}\.npz")
#: After so long a temporary file is left over, whoever has the number of its process by now.
OLD_SECONDS = 24 * 3600


def temporary_beside(target: Path, thread: int | None = None) -> Path:
    """Where to write what will be renamed to `target`; no other process writes there."""
    middle = "" if thread is None else f".{thread}"
    return target.with_name(f".{target.name}.{os.getpid()}{middle}.tmp")


def write_whole(target: Path, text: str) -> None:
    """Write a text file that is there whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    temporary = temporary_beside(target)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of processes that are gone; never those of one that is alive.

    A file whose name tells no process, or one of that number that is alive, goes when it is a day
    old. What cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) and _is_leftover(entry):
                    os.unlink(entry.path)


def _is_leftover(entry: os.DirEntry[str]) -> bool:
    match = NAME.fullmatch(entry.name)
    if match is None and not UNNAMED.fullmatch(entry.name):
        return False
    if match is not None and not is_running(int(match["pid"] or match["old"])):
        return True
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD_SECONDS


def is_running(pid: int) -> bool:
    """Whether a process of this number exists here; assumed where the system cannot tell."""
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True
