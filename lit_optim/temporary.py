"""Temporary files next to their target, named after their process, removed once it is gone."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from lit_optim.system import is_running, replace_file

#: `.best.ckpt.4711.tmp`, with a thread's number if several threads write. The other two are names
#: that earlier versions left in the caches.
NAME = re.compile(r"\..+?\.(?P<pid>\d{1,10})(\.\d+)?\.tmp|[0-9a-f]{32}\.so\.(?P<old>\d+)\.\d+")
UNNAMED = re.compile(r"tmp\w{8}\.npz")
#: After this time a temporary file is left over, whichever process has its number by now.
OLD_SECONDS = 24 * 3600


def temporary_beside(target: Path, thread: int | None = None) -> Path:
    """A path to write to, before it is renamed to `target`; no other process uses it.

    Nothing is there: what an earlier process of this number has left is removed, and so is a link
    by which someone else's directory would have another file written.
    """
    middle = "" if thread is None else f".{thread}"
    path = target.with_name(f".{target.name}.{os.getpid()}{middle}.tmp")
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return path


def write_whole(target: Path, text: str) -> None:
    """Write a text file atomically: it is complete, or not there.

    Raises:
        OSError: it cannot be written.
    """
    temporary = temporary_beside(target)
    try:
        temporary.write_text(text, encoding="utf-8")
        replace_file(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of processes that are gone, never those of running ones.

    A file without a process in its name, or with the number of a running one, is removed when it
    is a day old. What cannot be removed stays.
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
