"""Short names of the runs of a sweep, such as `lion wsd s1`: what differs, in the typed order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lit_optim.config.sweep_settings import OF_THE_SWEEP
from lit_optim.runs.job import is_text_list
from lit_optim.runs.layout import MULTIRUN, SEARCH, SWEEP, TOURNAMENT
from lit_optim.untrusted import Unreadable, read_json_mapping, read_yaml

SEED, LR = "seed", "optimizer.lr"
#: Overrides that do not describe a run.
NOT_A_SETTING = re.compile(rf"{OF_THE_SWEEP}|(resume|allow|hydra)\b")
#: Groups whose choices say by themselves what they are.
PLAIN_GROUPS = (
    *("optimizer", "scheduler", "wrapper", "param_groups", "model", "data", "batch", "trainer"),
    *("preset", "experiment"),
)
#: Choices that say nothing without their group.
EMPTY = ("", "none", "null")
#: Values of one key that are told; a range in a file may have any length.
MOST_VALUES = 1000


def by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides by their keys, without those that do not describe a run."""
    pairs = [line.lstrip("+~").partition("=") for line in overrides]
    return {key: value for key, _, value in pairs if not NOT_A_SETTING.match(key)}


def find_sweep(run_dir: Path) -> Path | None:
    """Return the directory of the sweep in which a run is; None if it is in none."""
    for parent in run_dir.absolute().parents[:3]:  # a sweep may have folders of runs
        if any((parent / name).is_file() for name in (SWEEP, MULTIRUN)):
            return parent
    return None


def read_swept(sweep_dir: Path) -> dict[str, list[str]]:
    """Return the keys that a sweep varies, in the order in which they were typed.

    Each key has its values, as many as are known: a search chooses them one after the other. The
    files in the directory may be of any launcher; what cannot be read is left out.
    """
    record = _read(sweep_dir / SWEEP, read_json_mapping)
    planned = record.get("jobs")
    jobs = list(planned.values()) if isinstance(planned, dict) else []
    jobs = [by_key(lines) for lines in jobs if is_text_list(lines)]
    line = record.get("line")
    swept = _swept_in(line if is_text_list(line) else _read_line_of_hydra(sweep_dir))
    for key in dict.fromkeys(key for job in jobs for key in job):
        values = list(dict.fromkeys(job.get(key, "") for job in jobs))
        if len(values) > 1:
            swept[key] = values
    return swept | _searched_in(_read(sweep_dir / SEARCH, read_json_mapping), sweep_dir, swept)


def _searched_in(
    search: Mapping[str, Any], sweep_dir: Path, swept: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Return what differs between the runs of a search besides: what its samplers decide, seeds."""
    studies = search.get("studies")
    spaces = (
        [_part(one, "space") for one in studies if isinstance(one, dict)]
        if isinstance(studies, list)
        else []
    )
    keys = (key for space in spaces for key in space if isinstance(key, str) and key not in swept)
    found: dict[str, list[str]] = {key: [] for key in keys}
    seeds = _part(search, "settings").get("seeds")
    if (sweep_dir / TOURNAMENT).exists():
        found[SEED] = []  # those of the trials and others
    elif isinstance(seeds, list) and len(seeds) > 1:
        found[SEED] = [str(seed) for seed in seeds[:MOST_VALUES]]
    return found


def _read(path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    try:
        content = read(path)
    except Unreadable:
        return {}
    return content if isinstance(content, dict) else {}


def _read_line_of_hydra(sweep_dir: Path) -> list[str]:
    """Return the line of a sweep as Hydra's own sweepers record it, with what they search."""
    hydra = _part(_read(sweep_dir / MULTIRUN, read_yaml), "hydra")
    searched = _part(_part(hydra, "sweeper"), "params")
    lines = _part(hydra, "overrides").get("task")
    return [*(f"{k}={v}" for k, v in searched.items()), *(lines if is_text_list(lines) else [])]


def _part(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = node.get(key)
    return part if isinstance(part, dict) else {}


def _swept_in(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys for which a line has several values; of a search without the values."""
    swept = {}
    parser = OverridesParser.create()
    for line in lines:
        try:
            override = parser.parse_override(line)
            key = override.key_or_group
            if override.is_sweep_override() and not NOT_A_SETTING.match(key):
                values = override.sweep_string_iterator() if override.is_discrete_sweep() else ()
                swept[key] = list(islice(values, MOST_VALUES))
        except (HydraException, RecursionError):  # the file is not Hydra's
            continue
    return swept


def short_name(overrides: Mapping[str, str], keys: Sequence[str]) -> str:
    """Return the name of a run: the values of these keys, without the key where it is clear.

    Args:
        overrides: of the run, by key.
        keys: that differ between runs, in order; those that the run has not are left out.
    """
    keys = [key for key in keys if key in overrides]
    ends = [key.rpartition(".")[2] for key in keys]

    def word(key: str, end: str) -> str:
        value = overrides[key].strip("'\"")
        if key == SEED:
            return f"s{value}"
        is_clear = key in PLAIN_GROUPS or (key == LR and key != keys[0])
        if is_clear and value not in EMPTY:
            return value
        return f"{end if ends.count(end) == 1 else key}={value}"

    return " ".join(map(word, keys, ends))
