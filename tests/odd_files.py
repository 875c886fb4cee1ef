"""Files that no reader expects, and a time within which it answers."""

from __future__ import annotations

import os
import threading

from lit_optim.untrusted import MAX_BYTES

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


def within_seconds(call, seconds=10.0):
    """What a call raises; it must not wait for anything."""
    raised = []

    def run():
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


def fifo(path):
    os.mkfifo(path)


def sparse(path):
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


KINDS = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "fifo": fifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "large": sparse,
    "latin-1": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "loop": lambda path: path.symlink_to(path),
}
