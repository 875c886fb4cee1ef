"""Short names for runs: what differs in a sweep, otherwise the optimizer and the scheduler."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lit_optim.config.places import groups
from lit_optim.errors import printable
from lit_optim.runs.short_names import by_key, find_sweep, read_swept, short_name
from lit_optim.sweeps.records import overrides_of, planned_jobs

MOST_CHARACTERS = 120  # of a name
#: The directory of a single run, and the groups of a sweep whose name is left out.
SINGLE = re.compile(r"(?P<time>\d\d-\d\d-\d\d)-\d{6}_(?P<what>.+)")
DATE = re.compile(r"\d{4}-\d\d-\d\d")
PLAIN_GROUPS = re.compile(r"(?:^|(?<=,))(optimizer|scheduler|model|data|wrapper|param_groups)=")


def name_runs(directory: Path, runs: Sequence[Path], taken: Iterable[str] = ()) -> dict[Path, str]:
    """Choose a short name for each run; time and date are added only to tell runs apart.

    Args:
        directory: with the runs.
        runs: in it.
        taken: names that are in use.
    """
    known = {name.casefold() for name in taken}  # as some file systems see them
    swept = _name_in_sweeps(runs)
    levels = {run: _possible_names(directory, run, swept.get(run, "")) for run in runs}
    counts = Counter(names[0] for names in levels.values())
    named = {}
    for run, names in levels.items():
        fitting = names[1:] if counts[names[0]] > 1 else names
        numbered = (f"{names[-1]} {k}" for k in range(2, len(runs) + len(known) + 3))
        name = next(one for one in (*fitting, *numbered) if one.casefold() not in known)
        known.add(name.casefold())
        named[run] = name
    return named


def _name_in_sweeps(runs: Iterable[Path]) -> dict[Path, str]:
    """Name the runs of sweeps by what each sweep varies."""
    members: dict[Path, list[Path]] = {}
    for run in runs:
        if (sweep := find_sweep(run)) is not None:
            members.setdefault(sweep, []).append(run)
    named = {}
    for sweep, inside in members.items():
        keys, planned = list(read_swept(sweep)), planned_jobs(sweep)
        for run in inside:
            overrides = by_key(overrides_of(run) or planned.get(run.name, ()))
            named[run] = short_name(overrides, keys).replace("/", "-")
    return named


def _possible_names(directory: Path, run: Path, swept: str) -> list[str]:
    """Possible names of a run, the shortest first; `swept` is its name in a sweep."""
    parts = run.resolve().relative_to(directory.resolve()).parts
    within = (*directory.resolve().parts[-3:], *parts)
    single = SINGLE.fullmatch(run.resolve().name)
    times = [found["time"] for part in within if (found := SINGLE.fullmatch(part))]
    dates = [part for part in within if DATE.fullmatch(part)]
    named = _split_name(single["what"]) if single else _shorten_job_name(run.resolve().name)
    what = swept or named
    names = [what, " ".join([what, *times[-1:]]), " ".join([what, *dates[-1:], *times[-1:]])]
    names.append(" ".join(parts) or what)
    return [printable(name, MOST_CHARACTERS) for name in dict.fromkeys(names)]


def _split_name(what: str) -> str:
    """Split the name of a directory into optimizer and scheduler; both may have underscores."""
    known = groups()
    for optimizer in sorted(known["optimizer"], key=len, reverse=True):
        scheduler = what.removeprefix(f"{optimizer}_")
        if scheduler != what and scheduler in known["scheduler"]:
            return f"{optimizer} {scheduler}"
    return what


def _shorten_job_name(name: str) -> str:
    """The name of a job of a sweep, without the names of well-known groups."""
    return re.sub(r",(?![^\[]*\])", " ", PLAIN_GROUPS.sub("", name))
