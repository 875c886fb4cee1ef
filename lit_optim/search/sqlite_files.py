"""Files of SQLite in which Optuna keeps studies; someone else may have made one.

A file of SQLite may hold programs: a trigger runs with each write, a view with each read, and
either may never end. So a file is opened only if its tables are Optuna's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from functools import cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote

from optuna.storages import RDBStorage, get_storage
from sqlalchemy.pool import StaticPool

from lit_optim.errors import first_line, printable
from lit_optim.search.file_systems import find_network
from lit_optim.search.storages import SECONDS_TO_WAIT, OpenStorage, hold_lock, lock_of
from lit_optim.search.unusable import StorageFailed, blame, explain
from lit_optim.system import replace_file
from lit_optim.temporary import temporary_beside

#: The first bytes of a file of SQLite.
MAGIC = b"SQLite format 3\x00"
#: What SQLite writes beside a file, after its name.
JOURNAL = "-journal"
BESIDE = (JOURNAL, "-wal", "-shm")
#: The last bytes of a journal that names another journal.
NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")
#: A table that the databases of other programs do not have.
OPTUNAS_TABLE = "alembic_version"
#: No file of studies comes near this size.
MOST_BYTES = 1 << 30
#: Of SQLite's own machine, to check a file; it does a hundred million or so in a second.
MOST_STEPS = 10_000_000_000
STEPS_BETWEEN = 1_000_000
#: Of a statement of SQL: names, keywords, and each other character; numbers are only lengths.
WORD = re.compile(r"[^\W\d]\w*|\d\w*|[^\w\s]")


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
            _create(file)
        _check_file(file)
        _check_content(file)
        with blame(name):
            try:
                storage = RDBStorage(
                    f"sqlite:///{file}",
                    engine_kwargs={"connect_args": {"timeout": SECONDS_TO_WAIT}},
                )
            except RuntimeError as error:  # tables of another version
                raise StorageFailed(f"{file}: {first_line(error)}") from None
        return OpenStorage(get_storage(storage), name, file)


@cache
def _make_tables() -> sqlite3.Connection:
    """Optuna's tables, in memory."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    RDBStorage("sqlite://", engine_kwargs={"creator": lambda: memory, "poolclass": StaticPool})
    return memory


def _create(file: Path) -> None:
    """Make the tables in memory and write them at once: a kill leaves no half of them."""
    fresh = temporary_beside(file)
    try:
        with contextlib.closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")  # it would be left beside
            _make_tables().backup(connection)
        replace_file(fresh, file)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def _check_file(file: Path) -> None:
    """Refuse what is not a file of SQLite, before SQLite opens it.

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
    for path in (file, *(file.with_name(file.name + end) for end in BESIDE)):
        if os.path.lexists(path) and not path.is_file():
            raise StorageFailed(f"{path}: is not a regular file")
        if path.exists() and path.stat().st_size > MOST_BYTES:
            raise StorageFailed(f"{path}: has more than {MOST_BYTES:,} bytes")
    journal = file.with_name(file.name + JOURNAL)
    if journal.exists() and _read_end(journal, len(NAMES_ANOTHER)) == NAMES_ANOTHER:
        raise StorageFailed(f"{journal}: names another journal, which SQLite would remove")


def _read_end(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
        return file.read(size)


def _check_content(file: Path) -> None:
    """Refuse files that Optuna would write its tables into, run something of, or fail on later.

    Raises:
        StorageFailed: says what is wrong.
        sqlite3.Error: it is damaged.
    """
    # not read-only: SQLite has to undo what a killed process was writing
    with contextlib.closing(sqlite3.connect(file, timeout=SECONDS_TO_WAIT)) as connection:
        steps = iter(range(0, MOST_STEPS, STEPS_BETWEEN))
        connection.set_progress_handler(lambda: next(steps, None) is None, STEPS_BETWEEN)
        connection.text_factory = lambda text: text.decode(errors="replace")  # if it is damaged
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        _check_schema(file, connection)  # first, for CHECK runs while the rest is read
        ((verdict,),) = connection.execute("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise StorageFailed(f"{file}: is damaged: {printable(verdict)}")


def _check_schema(file: Path, connection: sqlite3.Connection) -> None:
    """Refuse what may run something: views, triggers, virtual tables, and computed columns.

    The tables may be those of another version of Optuna, so they are compared word by word: a
    statement without a word that Optuna has not used itself can do nothing that Optuna does not.
    """
    known = {(kind, name) for kind, name, _ in _read_schema(_make_tables())}
    words = {word for *_, sql in _read_schema(_make_tables()) for word in WORD.findall(sql)}
    found = [*_read_schema(connection)]
    if ("table", OPTUNAS_TABLE) not in {(kind, name) for kind, name, _ in found}:
        raise StorageFailed(f"{file}: belongs to another program")
    for kind, name, sql in found:
        if kind == "index" and not sql:  # which SQLite itself makes for UNIQUE
            continue
        if (kind, name) not in known:
            named = f"the {printable(kind)} {printable(name)}"
            raise StorageFailed(f"{file}: has {named}, which is not of Optuna {version('optuna')}")
        for word in WORD.findall(sql):
            if word not in words and not word.isdecimal():
                raise StorageFailed(
                    f"{file}: its {kind} {name} is not as Optuna makes it: {printable(word)}"
                )


def _read_schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Of whatever a file has: its kind, its name, and the statement that makes it."""
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master")
    return [(str(kind), str(name), str(sql)) for kind, name, sql in rows]
