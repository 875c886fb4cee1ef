"""Paths on the command line, taken literally, whatever characters they have.

In Hydra's grammar `=`, `,`, brackets and quotes have a meaning, and a run's directory such as
`optimizer=muon,seed=0` contains them. So the values of path keys are quoted before Hydra parses
them. `~` is expanded here, as a shell expands it only at the start of a word.
"""

from __future__ import annotations

import os
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException

from lit_optim.errors import UsageError
from lit_optim.system import find_excess

#: Keys whose value is a path, by their whole name or, in any group, by their last part.
PATH_KEYS = (
    "ckpt",
    "weights",
    "resume",
    "resume.from",
    "branch_from",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "search.storage",
)
#: Names of keys that are places of files, in any group.
OF_A_PLACE = re.compile(
    r"(.*_)?(path|file|root|folder|directory|dir|(dir|log|sub)_?(path|name|dir))"
)
LAST_PARTS = ("path", "dir", "root", "file", "save_dir", "dirpath", "data_dir", "root_dir")
MOST_PATHS = 100  # with commas between; each comma may also be part of a path
SWEEP = re.compile(r"(choice|glob|sort|shuffle|tag)\(")


def quote(path: str | os.PathLike[str]) -> str:
    """A path, or any text, quoted for Hydra."""
    return QuotedString(os.fspath(path), Quote.single).with_quotes()


def expand_home(path: str) -> str:
    """The path with `~` or `~user` at its start as that home directory."""
    return os.path.expanduser(path)


def quote_path_value(line: str, multirun: bool) -> str:
    """Quote the value of an override whose key is a path; return others unchanged.

    Args:
        line: `ckpt=runs/optimizer=muon,seed=0/checkpoints/best.ckpt`.
        multirun: whether commas may separate several paths. They do if each of these exists; a
            comma is part of a path if that exists.

    Raises:
        UsageError: the path, or a name in it, is too long for any file system.
    """
    key, equals, value = line.partition("=")
    name = key.lstrip("+")
    if not equals or name.startswith("~"):
        return line
    is_path = name in PATH_KEYS or ("." in name and name.rpartition(".")[2] in LAST_PARTS)
    if not is_path:
        if not value.lstrip("'\"").startswith("~/"):
            return line
        return f"{key}={quote(expand_home(strip_quotes(value)))}"
    if multirun:
        if SWEEP.match(value):
            return line
        paths = _split_into_paths(value) or _split_at_commas(value)
    else:
        paths = [value]
    for path in paths:
        if "${" not in path and (excess := find_excess(path)):
            raise UsageError(f"{name}={path}: {excess}")
    return f"{key}={','.join(map(_as_read, paths))}"


def _as_read(value: str) -> str:
    """One path, quoted unless Hydra reads it as typed anyway."""
    path, read = expand_home(strip_quotes(value)), _read(value)
    is_hydras = value == "" or read is None or isinstance(read, str)  # null, or with escapes
    is_hydras = is_hydras and not (os.name == "nt" and "\\" in value)  # there it separates names
    if read == path or (is_hydras and path == value and not os.path.exists(path)):
        return value
    return quote(path)


def strip_quotes(value: str) -> str:
    """A value without the quotes around it, unless a path with these quotes exists."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0] or os.path.exists(value):
        return value
    read = _read(value)
    return read if isinstance(read, str) else value[1:-1]  # quotes within: not typed for Hydra


def _read(value: str) -> object:
    """The value as Hydra parses it; () if it cannot."""
    try:
        override = OverridesParser.create().parse_override(f"x={value}")
        return () if override.is_sweep_override() else override.value()
    except (HydraException, ValueError, RecursionError):
        return ()


def _split_at_commas(value: str) -> list[str]:
    """Split a value at its commas, but not at those in quotes."""
    try:
        override = OverridesParser.create().parse_override(f"x={value}")
    except (HydraException, ValueError, RecursionError):
        return value.split(",")
    read = override.value()
    if isinstance(read, ChoiceSweep) and any(isinstance(one, QuotedString) for one in read.list):
        return [_format_value(one) for one in read.list]
    is_quoted = isinstance(read, str) and value[:1] in ("'", '"')
    return [value] if is_quoted else value.split(",")


def _format_value(one: object) -> str:
    """A value of a sweep as it is typed."""
    if isinstance(one, QuotedString):
        return str(one.with_quotes())
    return "null" if one is None else str(one)


def _split_into_paths(value: str) -> list[str] | None:
    """Split a value into paths that exist; None if that is impossible."""
    if os.path.exists(expand_home(value)):
        return [value]
    if value.count(",") > MOST_PATHS:
        return None
    for comma in (match.start() for match in re.finditer(",", value)):
        if os.path.exists(expand_home(value[:comma])):
            rest = _split_into_paths(value[comma + 1 :])
            if rest is not None:
                return [value[:comma], *rest]
    return None
