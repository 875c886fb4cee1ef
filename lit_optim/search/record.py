"""`search.json` in the directory of a search: what it is, for its workers and for reports.

What the file says is that of a stranger: its line is checked as that of any directory is, and the
search is planned anew from it. Where the studies are kept must be typed, if it is not there.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from hydra.core.override_parser.types import Override

from lit_optim.config.reading import parse_overrides
from lit_optim.config.stored import stored_overrides
from lit_optim.errors import UsageError
from lit_optim.runs.job import is_text_list
from lit_optim.runs.layout import SEARCH
from lit_optim.search.data import Search
from lit_optim.search.storage_urls import hide_password
from lit_optim.search.studies import plan_search
from lit_optim.sweeps.records import write_json
from lit_optim.untrusted import Unreadable, read_json_mapping

NAME = re.compile(r"[0-9a-f]{8}")
#: The keys that say whether workers may join, and when the search was begun or resumed.
BEGUN, STARTED = "begun", "started"


def write_search(
    search: Search, sweep_dir: Path, has_begun: bool = True, started: float = 0.0
) -> None:
    """Write what a search is.

    Args:
        search: to write.
        sweep_dir: its directory.
        has_begun: whether its trials have their numbers, so that workers may join.
        started: when it was begun or resumed, in seconds since 1970.

    Raises:
        OSError: the directory is not writable.
    """
    content = asdict(search) | {BEGUN: has_begun, STARTED: started}
    if search.settings.storage is not None:  # what the line looks up stays out of the file
        content["settings"]["storage"] = hide_password(search.settings.storage)
    write_json(sweep_dir / SEARCH, content)


def has_begun(sweep_dir: Path) -> bool:
    """Whether workers may join a search."""
    try:
        return read_json_mapping(sweep_dir / SEARCH).get(BEGUN) is True
    except Unreadable:
        return False


def read_start(sweep_dir: Path) -> float:
    """When a search was begun or resumed, in seconds since 1970; 0 if that is not known."""
    with suppress(Unreadable):
        found = read_json_mapping(sweep_dir / SEARCH).get(STARTED)
        if isinstance(found, int | float) and 0 < found < math.inf:
            return float(found)
    return 0.0


def name_search(search: Search, sweep_dir: Path) -> Search:
    """Give a search the name that its directory says, or a new one.

    The studies of several searches may be in one storage.
    """
    name = secrets.token_hex(4)
    with suppress(Unreadable):
        known = read_json_mapping(sweep_dir / SEARCH).get("name")
        name = known if isinstance(known, str) and NAME.fullmatch(known) else name
    return replace(search, name=name)


def read_line(sweep_dir: Path) -> list[str]:
    """The overrides of a search as they were typed, which are untrusted.

    Raises:
        UsageError: there is no such directory, or its file cannot be read.
    """
    if not sweep_dir.is_dir():
        raise UsageError(f"no such directory: {sweep_dir}")
    file = sweep_dir / SEARCH
    try:
        line = read_json_mapping(file).get("line")
    except Unreadable as error:
        raise UsageError(f"{error}; {sweep_dir} is not the directory of a search") from None
    if not is_text_list(line):
        raise UsageError(f"{file}: has no line of overrides")
    return list(line)


def read_overrides(sweep_dir: Path, typed: Sequence[str] = ()) -> list[Override]:
    """Read the overrides of a search.

    Args:
        sweep_dir: its directory.
        typed: overrides, which replace those of the file.

    Raises:
        UsageError: there is no such file, or it has something that a directory cannot decide.
    """
    keys = {line.lstrip("+~").partition("=")[0] for line in typed}
    source = str(sweep_dir / SEARCH)
    accepted = stored_overrides(read_line(sweep_dir), source, keys.__contains__, multirun=True)
    return [*accepted, *parse_overrides(list(typed))]


def read_search(
    sweep_dir: Path,
    typed: Sequence[str] = (),
    plan: Callable[[Sequence[str]], Search] = plan_search,
) -> Search:
    """Read what a search is.

    Args:
        sweep_dir: its directory.
        typed: overrides, which replace those of the file.
        plan: makes the search of the overrides.

    Raises:
        UsageError: there is no such file, or it has something that a directory cannot decide.
    """
    search = plan([str(one.input_line) for one in read_overrides(sweep_dir, typed)])
    return name_search(search, sweep_dir)
