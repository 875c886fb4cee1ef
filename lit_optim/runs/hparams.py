"""The hyperparameters of a run as loggers get them, from its configuration and its sweep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_optim.config.sweep_settings import SWEEP_SETTINGS
from lit_optim.config.targets import TARGET
from lit_optim.lightning.hparams import Hyperparameters
from lit_optim.lightning.hparams_plugin import Value
from lit_optim.runs.resume import flatten, run_fingerprint
from lit_optim.runs.short_names import SEED, by_key, find_sweep, read_swept, short_name

#: Settings of how a run is started or watched, not of what it is.
NOT_HPARAMS = (*SWEEP_SETTINGS, "resume", "allow", "callbacks", "logger", "hydra")
#: Hexadecimal digits behind the name of a group, which tell apart groups of several sweeps.
DIGITS = 6


def describe_hparams(
    plain: Mapping[str, Any],
    choices: Mapping[str, str],
    overrides: Sequence[str],
    run_dir: Path,
    has_test: bool,
) -> Hyperparameters:
    """Return the hyperparameters of a run.

    A run alone cannot know what others vary: it looks that up in the directory of its sweep.

    Args:
        plain: the configuration, with the monitored metric.
        choices: of each group.
        overrides: as typed.
        run_dir: of the run; in a sweep, below the sweep's directory.
        has_test: whether it ends with a test.
    """
    settings = {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in flatten(plain)
        if not key.endswith(TARGET) and key.split(".")[0] not in NOT_HPARAMS
    }
    typed = {k: v for k, v in by_key(overrides).items() if k.split(".")[0] not in NOT_HPARAMS}
    every: dict[str, Value] = typed | settings | dict(choices)
    first = dict.fromkeys(["optimizer", "scheduler", SEED, *typed])
    order = dict.fromkeys([*first, *choices, *settings])
    values = {key: every[key] for key in order if key in every}

    sweep_dir = find_sweep(run_dir)
    swept = read_swept(sweep_dir) if sweep_dir is not None else {}
    swept = {key: texts for key, texts in swept.items() if key in every}
    if swept:
        shown = {key: _shown(key, every[key], typed.get(key), swept[key]) for key in swept}
    else:
        shown = {key: every[key] for key in first if key in every}
    named = [key for key in swept if key != SEED] or ["optimizer", "scheduler"]
    name = short_name({k: str(v) for k, v in every.items()} | typed, named)
    group = f"{name} {_digest(plain, typed)}".strip()
    monitor = str(plain["monitor"])
    return Hyperparameters(values, shown, group, monitor, has_test, bool(swept), swept)


def _shown(key: str, value: Value, typed: str | None, texts: Sequence[str]) -> Value:
    """Return what a column shows: a number if all runs have one, else the text as typed.

    The seeds of a row are shown together, as its metrics are means over them.
    """
    if key == SEED and len(texts) > 1:
        return ",".join(texts)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if typed is None or (is_number and all(map(_is_number, texts))) else typed


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _digest(plain: Mapping[str, Any], typed: Mapping[str, str]) -> str:
    """Return a few digits that tell apart runs that differ in anything but their seed."""
    settings = run_fingerprint(plain)
    seed = settings.pop(SEED, None)
    settings = {
        key: value
        for key, value in settings.items()
        # such as the seed of the data, which follows
        if not (key.endswith(f".{SEED}") and value == seed and key not in typed)
    }
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
