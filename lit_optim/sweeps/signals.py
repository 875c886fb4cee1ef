"""Notes Ctrl-C and SIGTERM while a sweep runs, so that each is handled between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lit_optim.interrupts import interruptible
from lit_optim.system import termination_code


class Terminated(SystemExit):
    """Raised after SIGTERM; has the exit code."""


class Signals:
    """The signals that this process has got."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Within it signals are noted, and do nothing else; SIGTERM also afterwards."""
        signal.signal(signal.SIGTERM, self._note)
        with interruptible(self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.numbers.append(number)  # checked only while no job is being started

    def check(self) -> None:
        """Raise what a signal stands for.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            Terminated: SIGTERM, or SIGHUP.
        """
        if signal.SIGINT in self.numbers:
            raise KeyboardInterrupt
        if self.numbers:
            raise Terminated(termination_code())
