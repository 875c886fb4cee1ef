"""An open storage, and what can go wrong with it; files of SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import unquote

import optuna
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from lit_optim.errors import UsageError, first_line, printable
from lit_optim.search.file_systems import find_network
from lit_optim.system import lock_file, open_lock, replace_file
from lit_optim.temporary import temporary_beside

#: How long a storage that another process writes to is waited for.
SECONDS_TO_WAIT = 60.0
SECONDS_BETWEEN = 0.01
#: The first bytes of a file of SQLite.
MAGIC = b"SQLite format 3\x00"
#: What SQLite writes beside a file, after its name.
BESIDE = ("-journal", "-wal", "-shm")
#: A table that the databases of other programs do not have.
OPTUNAS_TABLE = b"alembic_version"


class StorageFailed(UsageError):
    """A storage cannot be used; the message names it and says why."""


class OpenStorage:
    """An open storage.

    Args:
        storage: of Optuna.
        name: for messages.
        file: of SQLite, which one process at a time may write to; None of another storage.
    """

    def __init__(self, storage: BaseStorage, name: str, file: Path | None = None) -> None:
        self.storage, self.name, self._file = storage, name, file
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


@contextmanager
def explain(name: str) -> Iterator[None]:
    """Say in one line what is wrong with a storage.

    Raises:
        StorageFailed: for an error of the database, of the system, or of Optuna's storages.
    """
    try:
        yield
    except UsageError:
        raise
    except (
        SQLAlchemyError,
        sqlite3.Error,
        OSError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        optuna.exceptions.StorageInternalError,
    ) as error:
        raise StorageFailed(f"{name}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What the database itself has said, without the statement."""
    while error.__cause__ is not None and getattr(error, "orig", None) is None:
        error = error.__cause__
    original = getattr(error, "orig", None)
    if isinstance(original, BaseException):
        error = original
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def open_sqlite_url(url: str) -> OpenStorage:
    """Open `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Raises:
        StorageFailed: it cannot be used, or is in memory, where no other process sees it.
    """
    path = unquote(url.partition(":///")[2].partition("?")[0])
    if not path or path == ":memory:":
        raise StorageFailed(
            f"search.storage={printable(url)}: names no file; "
            "write sqlite:///study.db, or sqlite:////data/study.db from the root"
        )
    file = Path(path)
    return open_sqlite(file.resolve() if file.is_symlink() else file)  # the user has named it


def open_sqlite(file: Path) -> OpenStorage:
    """Open a file of SQLite, which is created whole or not at all.

    Raises:
        StorageFailed: it is not a study of Optuna, or cannot be read and written.
    """
    name = str(file)
    if kind := find_network(file):
        raise StorageFailed(
            f"{file}: SQLite cannot be relied on on a network file system ({printable(kind)}); "
            f"search.storage=journal:{file.absolute().with_suffix('.log')} can"
        )
    for path in (file, *(file.with_name(file.name + end) for end in BESIDE)):
        if path.is_symlink():
            raise StorageFailed(f"{path}: is a link, and SQLite would write where it leads")
    with explain(name), hold_lock(lock_of(file), name):
        if not os.path.lexists(file):
            _create_sqlite(file)
        _check_sqlite(file)
        try:
            storage = RDBStorage(
                f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": SECONDS_TO_WAIT}}
            )
        except RuntimeError as error:  # tables of another version
            raise StorageFailed(f"{file}: {first_line(error)}") from None
        return OpenStorage(get_storage(storage), name, file)


def _create_sqlite(file: Path) -> None:
    """Make the tables in memory and write them at once: a kill leaves no half of them."""
    fresh = temporary_beside(file)
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with contextlib.closing(memory):
        RDBStorage("sqlite://", engine_kwargs={"creator": lambda: memory, "poolclass": StaticPool})
        try:
            with contextlib.closing(sqlite3.connect(fresh)) as connection:
                connection.execute("PRAGMA journal_mode = OFF")  # it would be left beside
                memory.backup(connection)
            replace_file(fresh, file)
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)


def _check_sqlite(file: Path) -> None:
    """Refuse files that Optuna would write its tables into, or fail on later.

    Raises:
        StorageFailed: says what the file is.
    """
    if not file.is_file():
        raise StorageFailed(f"{file}: is not a regular file")
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise StorageFailed(f"{file}: is not a database of SQLite")
    if not os.access(file, os.W_OK):
        raise StorageFailed(f"{file}: is read-only")
    with contextlib.closing(sqlite3.connect(file, timeout=SECONDS_TO_WAIT)) as connection:
        connection.text_factory = bytes  # of a damaged file it may be no text
        ((verdict,),) = connection.execute("PRAGMA quick_check(1)")
        if verdict != b"ok":
            raise StorageFailed(
                f"{file}: is damaged: {printable(verdict.decode(errors='replace'))}"
            )
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if OPTUNAS_TABLE not in {name for (name,) in rows}:
            raise StorageFailed(f"{file}: belongs to another program")
