"""Where a search may keep its studies: the forms of `search.storage`, checked without Optuna."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from lit_optim.errors import UsageError, suggest

FORMS = (
    "sqlite:////DIR/study.db, journal:/DIR/study.log, postgresql://HOST/DB, mysql://HOST/DB or "
    "grpc://HOST:PORT"
)
MYSQL = {"pymysql": "pymysql", "mysqldb": "MySQLdb", "mysqlconnector": "mysql.connector"}
#: The import names of the drivers of databases, by scheme and as a URL may name them.
DRIVERS = {
    "postgresql": {"psycopg": "psycopg", "psycopg2": "psycopg2", "pg8000": "pg8000"},
    "mysql": MYSQL,
    "mariadb": MYSQL,
}
#: What to install where none is there.
PACKAGES = {"postgresql": "psycopg[binary]", "mysql": "pymysql", "mariadb": "pymysql"}
SCHEMES = ("sqlite", "journal", *DRIVERS, "grpc")
#: Something that is looked up where it is used, such as `${oc.env:PASSWORD}`.
LOOKED_UP = re.compile(r"\$\{[^{}]+\}")
#: What a URL calls a password among its settings.
SECRET = re.compile(r".*(pass|pwd|secret|token|key).*", re.IGNORECASE)
#: Settings of this kind that name a file.
NO_SECRET = ("passfile", "sslkey", "ssl_key", "sslrootcert")


def check_storage(typed: str, url: str) -> None:
    """Refuse a storage that cannot be opened, as far as that is seen without opening it.

    Args:
        typed: the URL as typed, with what is looked up as `${...}`.
        url: the URL.

    Raises:
        UsageError: naming what is wrong with it.
    """
    shown = f"search.storage={typed}"
    scheme, colon, rest = url.partition(":")
    base, _, driver = scheme.partition("+")
    if not colon or base not in SCHEMES:
        near = suggest(base, SCHEMES) if colon else ""
        raise UsageError(f"search.storage must be {FORMS}, got {hide_password(typed)}{near}")
    if has_password(typed):
        raise UsageError(
            f"search.storage={hide_password(typed)}: leave the password out, for every record "
            "would show it; PGPASSWORD or ~/.pgpass may have it"
        )
    if base in ("sqlite", "journal"):
        _check_file(shown, base, rest)
        return
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and (base != "grpc" or bool(parts.port))
    except ValueError:  # a port that is none
        is_whole = False
    if not is_whole or not rest.startswith("//") or (base != "grpc" and len(parts.path) < 2):
        form = "grpc://HOST:PORT" if base == "grpc" else f"{base}://HOST/DATABASE"
        raise UsageError(f"{shown}: must have the form {form}")
    if base == "grpc":
        if not find_spec("grpc"):
            raise UsageError(f"{shown} needs grpc: python -m pip install grpcio")
        return
    if driver and driver not in DRIVERS[base]:
        raise UsageError(f"{shown}: unknown driver {driver}; one of {', '.join(DRIVERS[base])}")
    installed = installed_drivers(base)
    if not installed or (driver and driver not in installed):
        package = driver or PACKAGES[base]
        raise UsageError(f"{shown} needs a driver: python -m pip install '{package}'")


def installed_drivers(scheme: str) -> list[str]:
    """The drivers for a kind of database that are installed, as a URL may name them."""
    drivers = DRIVERS.get(scheme, {})
    return [name for name, module in drivers.items() if find_spec(module.partition(".")[0])]


def _check_file(shown: str, scheme: str, rest: str) -> None:
    slashes = "///" if scheme == "sqlite" else ""
    path = rest.removeprefix(slashes or "//")
    path = path.partition("?")[0] if scheme == "sqlite" else path
    if scheme == "sqlite" and (not rest.startswith(slashes) or path in ("", ":memory:")):
        raise UsageError(f"{shown}: must name a file, as in sqlite:////DIR/study.db")
    if not path:
        raise UsageError(f"{shown}: must name a file, as in journal:/DIR/study.log")
    if not path.startswith("/"):
        raise UsageError(
            f"{shown}: each process may be in another directory; use "
            f"{scheme}:{slashes}{Path(path).absolute()}"
        )
    folder = Path(path).parent
    if not folder.is_dir():
        raise UsageError(f"{shown}: no such directory: {folder}")
    if Path(path).is_dir():
        raise UsageError(f"{shown}: {path} is a directory")


def has_password(url: str) -> bool:
    """Whether a URL has a password, not where it is looked up; it may have any characters."""
    whole = LOOKED_UP.sub("", url)
    scheme, colon, rest = whole.partition("://")
    if not colon or scheme == "sqlite":
        return False
    place, _, query = rest.partition("?")
    if "@" in rest and "@" not in place:  # a question mark in the password, or an @ in a setting
        place, query = (rest, "") if ":" in place.partition("/")[0] else (place, query)
    user = place.rpartition("@")[0]
    names = [pair.partition("=") for pair in query.split("&")]
    return bool(user.partition(":")[2]) or any(
        value and SECRET.fullmatch(name) and name.lower() not in NO_SECRET
        for name, _, value in names
    )


def hide_password(url: str) -> str:
    """A URL for messages and records: without who uses it and how, if that has a password."""
    if not has_password(url):
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://...@{rest.rpartition('@')[2].partition('?')[0]}"
