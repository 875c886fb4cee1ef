"""An open storage, and what can go wrong with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from optuna.storages import BaseStorage

from lit_optim.search.guarding import Guarded
from lit_optim.search.unusable import StorageFailed, explain
from lit_optim.system import lock_file, open_lock

#: How long a storage that another process writes to is waited for.
SECONDS_TO_WAIT = 60.0
SECONDS_BETWEEN = 0.01


class OpenStorage:
    """An open storage.

    Args:
        storage: of Optuna.
        name: for messages.
        file: of SQLite, which one process at a time may write to; None of another storage.
    """

    def __init__(self, storage: BaseStorage, name: str, file: Path | None = None) -> None:
        self.storage: BaseStorage = Guarded(storage, name)
        self.name, self._file = name, file
        self._is_locked = False

    @contextmanager
    def use(self) -> Iterator[BaseStorage]:
        """Read and write, alone where the storage needs it.

        Raises:
            StorageFailed: it is damaged, locked, read-only, full or gone.
        """
        with explain(self.name), self._lock():
            yield self.storage

    def _lock(self) -> AbstractContextManager[object]:
        if self._file is None or self._is_locked:
            return nullcontext()
        return self._hold(self._file)

    @contextmanager
    def _hold(self, file: Path) -> Iterator[None]:
        with hold_lock(lock_of(file), self.name):
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False


def lock_of(file: Path) -> Path:
    """The lock beside a file of SQLite; it stays, for removing it could let two in."""
    return file.with_name(f".{file.name}.lock")


@contextmanager
def hold_lock(path: Path, name: str) -> Iterator[None]:
    """Wait for a lock and hold it.

    Args:
        path: of the lock.
        name: of what it is for.

    Raises:
        StorageFailed: another process has held it for a minute.
        OSError: it cannot be made, or is a link.
    """
    with open_lock(path) as file:
        until = time.monotonic() + SECONDS_TO_WAIT
        with contextlib.suppress(OSError):  # a file system without locks
            while not lock_file(file):
                if time.monotonic() > until:
                    raise StorageFailed(f"{name}: another process has locked it")
                time.sleep(SECONDS_BETWEEN)
        yield
