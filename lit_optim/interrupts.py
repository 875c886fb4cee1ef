"""Ctrl-C ends this program with one line and code 130, whatever it is doing.

Until training begins there is nothing to save, so the signal ends the process there and then; an
exception could be raised within somebody's import, swallowed, or shown as a traceback. While
something must be put in order first, `interruptible` has it raise KeyboardInterrupt.

Light on purpose: it is imported before everything else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130
Handler = Callable[[int, "FrameType | None"], Any]


def exit_on_interrupt() -> None:
    """From now on Ctrl-C ends the process at once, with a line."""
    _handle(_exit)


def ignore_more_interrupts() -> None:
    """From now on Ctrl-C ends the process at once, and without a line: one has been printed."""
    _handle(_exit_silently)


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


def _exit(number: int, frame: FrameType | None) -> None:
    from lit_optim.environment import is_first_here

    ignore_more_interrupts()
    with contextlib.suppress(Exception):  # a closed pipe, or a stream that is being written to
        sys.stdout.flush()
    if is_first_here():  # the other ranks have nothing to add
        # by the descriptor: the stream may be just where it was interrupted
        with contextlib.suppress(OSError):
            os.write(2, b"lit_optim: interrupted\n")
    os._exit(INTERRUPTED)


def _exit_silently(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
