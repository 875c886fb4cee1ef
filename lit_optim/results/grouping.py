"""Groups runs into settings: a setting holds runs that differ in their seed only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lit_optim.config.places import GLOBAL
from lit_optim.results.data import Run

SEED = "seed"
LR = "optimizer.lr"
#: The end of the key of a class.
CLASS = "._target_"


def group_runs(runs: Sequence[Run]) -> tuple[list[str], list[tuple[dict[str, str], list[Run]]]]:
    """Group runs by everything that differs between them, except the seed.

    Runs are compared by their choices and all their values, including defaults, not by what was
    typed. If these are unknown, a run counts as one with the same typed overrides. A choice that
    only sets values of others, such as an experiment, makes no difference beside the same values.

    Returns:
        The keys of the columns, as few as distinguish all groups, what was typed first and in that
        order; and the groups in order of appearance, each with its value for every column.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    settings: list[dict[str, str]] = []
    known = _known_settings(runs)
    without = _without_effect(runs, known)
    for run, values in zip(runs, known, strict=True):
        values = {key: value for key, value in values.items() if key not in without}
        key = tuple(sorted(values.items()))
        if key not in groups:
            settings.append(values)
        groups.setdefault(key, []).append(run)
    columns = _columns(settings, list(dict.fromkeys(k for run in runs for k in run.overrides)))
    return columns, list(zip(settings, groups.values(), strict=True))


def _without_effect(runs: Sequence[Run], known: Sequence[Mapping[str, str]]) -> set[str]:
    """The choices that only set values of others, of which runs of the same values differ."""
    chosen: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
    found = set[str]()
    for run, values in zip(runs, known, strict=True):
        if not run.settings:
            continue
        rest = tuple(sorted((key, value) for key, value in values.items() if key not in GLOBAL))
        first = chosen.setdefault(rest, values)
        found |= {key for key in GLOBAL if first.get(key) != values.get(key)}
    return found


def _known_settings(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the settings of each run by key: choices, then values, then other typed overrides."""
    of_typed: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    found = []
    for run in runs:
        typed = {key: value for key, value in run.overrides.items() if key != SEED}
        values = {key: str(value) for key, value in run.choices.items()}
        values |= {k: format_setting(v) for k, v in _without_seed(run).items() if k not in values}
        given = {k: v for k, v in typed.items() if k not in values and not _has_part(values, k)}
        complete = bool(run.choices and run.settings)
        values |= given
        key = tuple(sorted(typed.items()))
        if complete:
            of_typed.setdefault(key, values)
        found.append((complete, key, values))
    return [values if done else of_typed.get(key, values) for done, key, values in found]


def _without_seed(run: Run) -> dict[str, object]:
    """Return the values without the seed and those that follow it, as the data's seed does."""
    seed = run.settings.get(SEED)

    def follows(key: str, value: object) -> bool:
        return key.endswith(f".{SEED}") and value == seed and key not in run.overrides

    return {k: v for k, v in run.settings.items() if k != SEED and not follows(k, v)}


def _has_part(values: Mapping[str, str], key: str) -> bool:
    """Whether a typed mapping is recorded value by value."""
    return any(other.startswith(f"{key}.") for other in values)


def setting_of(run: Run, key: str) -> str:
    """The choice or value of a run for a key, as it would be typed; empty if it has none."""
    if key in run.choices:
        return run.choices[key]
    if key in run.settings:
        return format_setting(run.settings[key])
    return run.overrides.get(key, "")


def format_setting(value: object) -> str:
    """A value of the configuration as it would be typed."""
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
    for key in [one for one in columns if one.endswith(CLASS)]:  # the choice often tells as much
        rest = [one for one in columns if one != key]
        if rest and not _distinguishes(settings, rest, key):
            columns = rest
    return columns or [key for key in (*typed, "optimizer") if key != SEED and key in every][:1]


def _distinguishes(
    settings: Sequence[Mapping[str, str]], columns: Iterable[str], more: str
) -> bool:
    """Whether one more column distinguishes two settings that are equal without it."""
    columns = list(columns)

    def distinct(keys: list[str]) -> int:
        return len({tuple(values.get(key) for key in keys) for values in settings})

    return distinct([*columns, more]) > distinct(columns)
