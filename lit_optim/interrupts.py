"""Ctrl-C ends this program with one line and code 130, whatever it is doing.

Until training begins there is nothing to save, so the signal ends the process there and then; an
exception could be raised within somebody's import, swallowed, or shown as a traceback. While
something must be put in order first, `interruptible` has it raise KeyboardInterrupt.

Light on purpose: it is imported before everything else.
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

INTERRUPTED = 130
#: Whether the line that says how the program ends has been printed, or is about to be.
_is_told = threading.Event()
Handler = Callable[[int, "FrameType | None"], Any]


def exit_on_interrupt() -> None:
    """From now on Ctrl-C ends the process at once, with a line."""
    _handle(_exit)
    # at the very end Python puts the system's own handler back, by which the code would be another
    atexit.unregister(_ignore)
    atexit.register(_ignore)


def say_no_more() -> None:
    """A line has been printed that says how the program ends: Ctrl-C adds none from now on."""
    _is_told.set()


@contextmanager
def interruptible(handler: Handler = signal.default_int_handler) -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt, or does what `handler` says."""
    before = signal.getsignal(signal.SIGINT)
    _handle(handler)
    try:
        yield
    finally:
        if before is not None:  # it was set by C code
            _handle(before)


def _handle(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def _ignore() -> None:
    _handle(signal.SIG_IGN)


def _exit(number: int, frame: FrameType | None) -> None:
    # nothing is imported here: it may be an import that is interrupted
    try:
        sys.stdout.flush()  # which fails where it is just being written to, or a closed pipe
    finally:
        try:
            if is_first_here() and not _is_told.is_set():  # the other ranks have nothing to add
                os.write(2, b"lit_optim: interrupted\n")  # a stream may be in use
        finally:
            os._exit(INTERRUPTED)
