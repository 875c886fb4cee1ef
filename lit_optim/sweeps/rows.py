"""Groups runs into the rows of a table: a row holds runs that differ only in their seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import filter_overrides

from lit_optim.runs.resume import read_fingerprint
from lit_optim.sweeps.records import JobRecord, read_result

SEED = "seed"
#: Overrides that do not describe a run.
NOT_A_SETTING = re.compile(r"(n_jobs|resume|allow|hydra)\b")


@dataclass
class Ended:
    """A run that has ended; one without a result has failed.

    Args:
        overrides: as typed, by key.
        run_dir: the directory.
        exit_code: of the process.
        result: the content of `result.json`.
        choices: of each group, including defaults.
        settings: all values by key, including defaults.
    """

    overrides: dict[str, str]
    run_dir: Path
    exit_code: int | None
    result: dict[str, Any] | None
    choices: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def ended_run(run_dir: Path, record: JobRecord) -> Ended:
    """Return a run from the record of its overrides and its exit code."""
    pairs = [line.lstrip("+~").partition("=") for line in filter_overrides(record.overrides)]
    overrides = {key: value for key, _, value in pairs if not NOT_A_SETTING.match(key)}
    result = read_result(run_dir) if record.is_done else None
    choices = record.choices or (result or {}).get("choices") or {}
    return Ended(overrides, run_dir, record.exit_code, result, choices, read_fingerprint(run_dir))


@dataclass
class Row:
    """Runs that differ only in their seed.

    Args:
        cells: the values of the columns.
        runs: at least one.
    """

    cells: list[str]
    runs: list[Ended]


def group_runs(runs: Sequence[Ended]) -> tuple[list[str], list[Row]]:
    """Group runs by everything that differs between them, except the seed.

    Runs are compared by their choices and all their values, including defaults, not by what was
    typed. If these are unknown, a run counts as one with the same typed overrides.

    Returns:
        The keys of the columns, as few as distinguish all rows, and the rows in order of
        appearance.
    """
    known = _known_settings(runs)
    groups: dict[tuple[tuple[str, str], ...], list[Ended]] = {}
    settings: list[dict[str, str]] = []
    for run, values in zip(runs, known, strict=True):
        key = tuple(sorted(values.items()))
        if key not in groups:
            settings.append(values)
        groups.setdefault(key, []).append(run)
    columns = _columns(settings, list(dict.fromkeys(k for run in runs for k in run.overrides)))
    rows = [
        Row([values.get(key, "") for key in columns], members)
        for values, members in zip(settings, groups.values(), strict=True)
    ]
    return columns, rows


def _known_settings(runs: Sequence[Ended]) -> list[dict[str, str]]:
    """Return the settings of each run by key: choices, then values, then other typed overrides."""
    of_typed: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    found = []
    for run in runs:
        typed = {key: value for key, value in run.overrides.items() if key != SEED}
        values = {key: str(value) for key, value in run.choices.items()}
        values |= {k: _format_value(v) for k, v in _without_seed(run).items() if k not in values}
        given = {k: v for k, v in typed.items() if k not in values and not _has_part(values, k)}
        complete = bool(run.choices and run.settings)
        values |= given
        key = tuple(sorted(typed.items()))
        if complete:
            of_typed.setdefault(key, values)
        found.append((complete, key, values))
    return [values if done else of_typed.get(key, values) for done, key, values in found]


def _without_seed(run: Ended) -> dict[str, Any]:
    """Return the values without the seed and those that follow it, as the data's seed does."""
    seed = run.settings.get(SEED)

    def follows(key: str, value: Any) -> bool:
        return key.endswith(f".{SEED}") and value == seed and key not in run.overrides

    return {k: v for k, v in run.settings.items() if k != SEED and not follows(k, v)}


def _has_part(values: Mapping[str, str], key: str) -> bool:
    """Whether a typed mapping is recorded value by value."""
    return any(other.startswith(f"{key}.") for other in values)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _columns(settings: Sequence[Mapping[str, str]], typed: Sequence[str]) -> list[str]:
    """Return the keys that distinguish the settings: typed ones first, then others if needed."""
    every = list(dict.fromkeys(key for values in settings for key in values))
    differing = [key for key in every if len({values.get(key) for values in settings}) > 1]
    choices = [key for key in differing if "." not in key and "/" not in key]
    columns = [key for key in typed if key in differing]
    for key in (*choices, *differing):
        if key not in columns and _distinguishes(settings, columns, key):
            columns.append(key)
    return columns or [key for key in (*typed, "optimizer") if key != SEED and key in every][:1]


def _distinguishes(
    settings: Sequence[Mapping[str, str]], columns: Iterable[str], more: str
) -> bool:
    """Whether one more column distinguishes two rows that are equal without it."""
    columns = list(columns)

    def distinct(keys: list[str]) -> int:
        return len({tuple(values.get(key) for key in keys) for values in settings})

    return distinct([*columns, more]) > distinct(columns)
