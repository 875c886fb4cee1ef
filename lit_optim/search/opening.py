"""Opens the storage of a search by its URL: SQLite, a journal, a database, or a gRPC server."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.storages import RDBStorage, get_storage

from lit_optim.errors import escape, first_line, printable
from lit_optim.runs.layout import STUDY
from lit_optim.search.journal import open_journal
from lit_optim.search.reconnecting import reconnect
from lit_optim.search.sqlite_files import open_sqlite, open_sqlite_url
from lit_optim.search.storage_urls import installed_drivers
from lit_optim.search.storages import OpenStorage
from lit_optim.search.unusable import StorageFailed, blame, explain
from lit_optim.streams import tell

SECONDS_TO_CONNECT = 15
GRPC_PORT = 13000  # Optuna's default


def open_storage(url: str | None, sweep_dir: Path) -> OpenStorage:
    """Open the storage of a search, which is created if it is missing.

    Args:
        url: as `search.storage`; None: SQLite in the sweep's directory.
        sweep_dir: of the search.

    Raises:
        StorageFailed: it cannot be used; says why.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        return open_sqlite(sweep_dir / STUDY)
    scheme = url.partition(":")[0].partition("+")[0]
    return OPENERS.get(scheme, open_database)(url)


def tell_escaped(line: str) -> None:
    """Print a line about a storage, above whatever shows the progress."""
    tell(escape(line))


def open_journal_url(url: str) -> OpenStorage:
    """Open `journal:study.log`, or `journal:/shared/study.log`.

    Raises:
        StorageFailed: it is no journal, or cannot be read and written.
    """
    words = url.partition(":")[2]
    path = Path(f"/{words.lstrip('/')}" if words.startswith("/") else words)
    if not words.strip("/"):
        raise StorageFailed(
            f"search.storage={printable(url)}: names no file; write journal:/shared/study.log"
        )
    if path.is_symlink():  # by whichever name it is called, it has one lock
        path = path.resolve()
    name = str(path)
    with explain(name):
        return OpenStorage(open_journal(path, tell_escaped), name)


def open_grpc(url: str) -> OpenStorage:
    """Open `grpc://host:port`, a server of `optuna.storages.run_grpc_proxy_server`.

    Raises:
        StorageFailed: it cannot be reached.
    """
    name = f"search.storage={printable(url)}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or GRPC_PORT
    except ValueError:  # of a port that is none
        host = None
    if not host:
        raise StorageFailed(f"{name}: write grpc://host:{GRPC_PORT}")
    if not find_spec("grpc"):
        raise StorageFailed(f"{name}: needs grpcio, which is not installed: pip install grpcio")
    proxy = getattr(optuna.storages, "GrpcStorageProxy", None)
    if proxy is None:
        raise StorageFailed(f"{name}: needs Optuna 4.2 or newer, this is {optuna.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental
        storage = proxy(host=f"[{host}]" if ":" in host else host, port=port)
    try:
        storage.wait_server_ready(timeout=SECONDS_TO_CONNECT)
    except ConnectionError:
        raise StorageFailed(f"{name}: cannot be reached") from None
    return OpenStorage(reconnect(storage, name, tell_escaped), name)


def open_database(url: str) -> OpenStorage:
    """Open a database by its URL.

    Raises:
        StorageFailed: it cannot be reached, or not be read without another package.
    """
    from sqlalchemy.engine import make_url

    with explain("search.storage"):  # without the URL: it may hold a password
        parts = make_url(url)
    name = f"search.storage={parts.render_as_string(hide_password=True)}"
    installed = installed_drivers(parts.drivername)
    if installed:  # SQLAlchemy's default may be another one
        parts = parts.set(drivername=f"{parts.drivername}+{installed[0]}")
    whole = parts.render_as_string(hide_password=False)
    with blame(name):
        try:
            # a connection that was cut off while nothing was asked is replaced without a word
            storage = RDBStorage(whole, engine_kwargs={"pool_pre_ping": True})
        except (ImportError, RuntimeError) as error:  # no driver, or tables of another version
            raise StorageFailed(f"{name}: {first_line(error)}") from None
        return OpenStorage(reconnect(get_storage(storage), name, tell_escaped), name)


#: By the scheme of a URL; others are databases.
OPENERS = {"sqlite": open_sqlite_url, "journal": open_journal_url, "grpc": open_grpc}
