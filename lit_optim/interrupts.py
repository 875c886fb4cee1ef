"""Ctrl-C ends this program with one line and code 130, whatever it is doing.

Until training begins there is nothing to save, so the signal ends the process at once; an exception
could be raised within an import, swallowed, or shown as a traceback. Where something must be put in
order first, `interruptible` makes the signal raise KeyboardInterrupt.

This module is imported before everything else, so it imports little.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lit_optim.environment import is_first_here
from lit_optim.streams import sign

INTERRUPTED = 130
LINE = f"{sign('interrupted')}\n".encode()
#: Whether the line that says how the program ends has been printed, or is about to be.
_is_announced = threading.Event()
Handler = Callable[[int, "FrameType | None"], Any]


def exit_on_interrupt() -> None:
    """From now on Ctrl-C ends the process at once, with a line."""
    _handle(_exit)
    # at the very end Python restores the system's handler, which would change the exit code
    atexit.unregister(_ignore)
    atexit.register(_ignore)


def say_no_more() -> None:
    """Print nothing on Ctrl-C from now on: a line already says how the program ends."""
    _is_announced.set()


@contextmanager
def interruptible(handler: Handler = signal.default_int_handler) -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt, or does what `handler` says."""
    before = signal.getsignal(signal.SIGINT)
    _handle(handler)
    try:
        yield
    finally:
        if before is not None:  # None: it was set by C code
            _handle(before)


def _handle(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def _ignore() -> None:
    _handle(signal.SIG_IGN)


def _exit(number: int, frame: FrameType | None) -> None:
    # nothing is imported here: it may be an import that is interrupted
    try:
        sys.stdout.flush()  # fails if it is being written to, or a closed pipe
    finally:
        try:
            if is_first_here() and not _is_announced.is_set():  # the other ranks add nothing
                os.write(2, LINE)  # a stream may be in use
        finally:
            os._exit(INTERRUPTED)
