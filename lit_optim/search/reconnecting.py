"""Storages that are servers: while one cannot be reached, a search waits, and then goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage

from lit_optim.errors import first_line, printable
from lit_optim.search.forwarding import Forwarding
from lit_optim.search.unusable import StorageFailed, TrialHasEnded

PAUSE = 0.5  # seconds between two tries
MOST_SECONDS = 900.0
SECONDS_BETWEEN_LINES = 60.0
#: gRPC's: the server is not there, or was cut off.
GRPC_LOST = ("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED")
#: SQLAlchemy's: for the database the connection is at fault, or another one at the same time.
SQL_LOST = ("OperationalError", "InterfaceError", "TimeoutError")


class StorageLost(StorageFailed):
    """A storage could not be reached for a long time; the message names it."""


class Reconnecting(Forwarding):
    """A storage that is called again and again until it answers.

    A call whose answer was lost may have been carried out: the next one then finds that it is done.

    Args:
        storage: what is called.
        name: of it, in messages; without a password.
        tell: is called with a line when it is lost, now and then, and when it is back.
        most: seconds after which it is given up.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        tell: Callable[[str], None],
        most: float = MOST_SECONDS,
    ) -> None:
        super().__init__(storage, name)
        self.tell, self.most = tell, most

    def _call(
        self,
        method: str,
        *arguments: Any,
        find: Callable[[], Any] = lambda: None,
        **more: Any,
    ) -> Any:
        """Call a method of the storage.

        Args:
            method: its name.
            arguments: of it.
            find: called before another try; returns the answer that was lost, or None.
            more: of its arguments.

        Raises:
            StorageLost: it has not answered for too long.
            StorageFailed: the server has failed.
            Exception: what the storage itself raises.
        """
        absence: Absence | None = None
        while True:
            try:
                answer = getattr(self.storage, method)(*arguments, **more)
            except Exception as error:
                if absence is not None and (done := self._find_done(method, arguments, error)):
                    answer = done[0]
                elif is_lost(error):
                    absence = absence or Absence(self.name, self.tell, self.most)
                    absence.wait(error)
                    if (answer := find()) is None:
                        continue
                elif callable(details := getattr(error, "details", None)):  # a failure of gRPC
                    raise StorageFailed(f"{self.name}: {printable(str(details()))}") from None
                else:
                    raise
            if absence is not None:
                absence.end()
            return answer

    def _find_done(
        self, method: str, arguments: tuple[Any, ...], error: Exception
    ) -> tuple[Any] | None:
        """What the first call would have returned, where the second one finds it carried out."""
        if isinstance(error, DuplicatedStudyError):
            return (self._call("get_study_id_from_name", arguments[1]),)
        if isinstance(error, TrialHasEnded) and method == "set_trial_state_values":
            trial_id, state, *_ = arguments
            return (True,) if self._call("get_trial", trial_id).state == state else None
        return None

    def create_new_trial(self, study_id: int, template_trial: Any = None) -> int:
        """Called by Optuna.

        Only one process adds trials to a study, so one that has come meanwhile is this one.
        """
        before = self._call("get_n_trials", study_id)

        def find() -> Any:
            if self._call("get_n_trials", study_id) == before:
                return None
            return self._call("get_trial_id_from_study_id_trial_number", study_id, before)

        made: int = self._call("create_new_trial", study_id, template_trial, find=find)
        return made


class Absence:
    """A time for which a storage cannot be reached.

    Args:
        name: of the storage.
        tell: is called with a line.
        most: seconds after which it is given up.
    """

    def __init__(self, name: str, tell: Callable[[str], None], most: float) -> None:
        self.name, self.tell, self.most = name, tell, most
        self.start = time.monotonic()
        self.told = 0.0  # after how many seconds
        self.is_told = False

    def wait(self, error: Exception) -> None:
        """Wait a moment before the next try.

        Raises:
            StorageLost: it has been too long.
        """
        seconds = time.monotonic() - self.start
        if seconds > self.most:
            raise StorageLost(
                f"{self.name} could not be reached for {seconds:.0f} s; once it is there again, "
                "the same command with resume=DIR goes on"
            ) from None
        if not self.is_told:
            self.is_told = True
            self.tell(f"{self.name} cannot be reached, waiting for it: {first_line(error)}")
        elif seconds - self.told > SECONDS_BETWEEN_LINES:
            self.told = seconds
            self.tell(f"still waiting for {self.name}, since {seconds:.0f} s")
        time.sleep(PAUSE)

    def end(self) -> None:
        """Tell that it is over."""
        self.tell(f"{self.name} is back after {time.monotonic() - self.start:.0f} s")


def is_lost(error: BaseException | None) -> bool:
    """Whether an error of a storage, or its cause, is that the server cannot be reached."""
    while error is not None:
        module, name = type(error).__module__.partition(".")[0], type(error).__name__
        if module == "sqlalchemy" and name in SQL_LOST:
            return True
        code = getattr(error, "code", None)
        if module == "grpc" and callable(code) and getattr(code(), "name", "") in GRPC_LOST:
            return True
        error = error.__cause__ or error.__context__
    return False


def reconnect(storage: BaseStorage, name: str, tell: Callable[[str], None]) -> BaseStorage:
    """Make a storage one that is waited for; see `Reconnecting`."""
    return Reconnecting(storage, name, tell)
