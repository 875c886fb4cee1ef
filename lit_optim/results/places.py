"""Where runs stand in searches: by their directories, and by what `search.json` says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_optim.results.data import Place
from lit_optim.runs.layout import FINAL, SEARCH, TRIAL, UNTUNED
from lit_optim.untrusted import Unreadable, read_json_mapping

#: The role of a trial's runs; that of others is the name of their directory.
TRIAL_ROLE = "trial"
#: A trial has no more digits.
MOST_DIGITS = 9


@dataclass(frozen=True)
class SearchRecord:
    """What `search.json` says, as far as a report needs it.

    Args:
        searched: the keys of the space of each study, by its name.
        metric: by which the search judges; empty if it does not say so.
        mode: `min` or `max`.
        at: `final` or `best`.
    """

    searched: Mapping[str, Sequence[str]]
    metric: str = ""
    mode: str = "min"
    at: str = "final"


def read_search(root: Path) -> SearchRecord:
    """Read the `search.json` of a search.

    Raises:
        Unreadable: it is missing, or names no studies.
    """
    path = root / SEARCH
    record = read_json_mapping(path)
    searched = {}
    for study in list_of_mappings(record.get("studies")):
        name, space = study.get("name"), study.get("space")
        if isinstance(name, str) and isinstance(space, dict):
            searched[name] = [key for key in space if isinstance(key, str)]
    if not searched:
        raise Unreadable(f"{path}: must have studies, each with a name and a space")
    settings = record.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    metric = settings.get("metric")
    return SearchRecord(
        searched,
        metric if isinstance(metric, str) else "",
        "max" if settings.get("mode") == "max" else "min",
        "best" if settings.get("at") == "best" else "final",
    )


def list_of_mappings(value: Any) -> list[dict[Any, Any]]:
    """The mappings in a list; none of anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


@dataclass
class Places:
    """Finds the places of runs; each `search.json` is read once.

    Args:
        notes: a line for each that cannot be read.
    """

    notes: list[str] = field(default_factory=list)
    _records: dict[Path, SearchRecord | None] = field(default_factory=dict)

    def find(self, run_dir: Path) -> Place | None:
        """Return the place of a run; None of one that belongs to no search."""
        path = Path(os.path.abspath(run_dir))
        role, trial = _role(path.parent.name)
        if not role:
            return None
        for root in path.parents[1:3]:  # of one study, of several
            record = self._record(root)
            if record is None:
                continue
            study = path.parents[1].name if root == path.parents[2] else ""
            if study in record.searched:
                return Place(
                    root, study, role, trial, record.searched[study], record.metric, record.mode,
                    record.at,
                )  # fmt: skip
        return None

    def _record(self, root: Path) -> SearchRecord | None:
        if root not in self._records:
            self._records[root] = None
            if os.path.lexists(root / SEARCH):
                try:
                    self._records[root] = read_search(root)
                except Unreadable as error:
                    self.notes.append(f"left out: {error}")
        return self._records[root]


def _role(name: str) -> tuple[str, int | None]:
    """The role of the runs in a directory, and the number of the trial."""
    number = name.removeprefix(TRIAL)
    if number != name and number.isascii() and number.isdigit() and len(number) <= MOST_DIGITS:
        return TRIAL_ROLE, int(number)
    return (name, None) if name in (FINAL, UNTUNED) else ("", None)
