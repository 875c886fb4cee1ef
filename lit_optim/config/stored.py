"""The only way by which overrides from a file enter, as for `resume=<directory>`.

A run's directory may come from someone else, so its overrides are untrusted data: they may choose
among the choices of the groups and set arguments of our constructors, each value checked as on the
command line. They may not name other code to run or other places to write, or look anything up
outside of the configuration. This module lists what is accepted; everything else is refused in one
line, and the user can still type it. docs/trust.md explains it to the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException

from lit_optim.config.composing import override_values
from lit_optim.config.paths import OF_A_PLACE
from lit_optim.config.places import OPTION, groups
from lit_optim.config.reading import parse_overrides
from lit_optim.config.settings import Settings
from lit_optim.config.sweep_settings import SWEEP_SETTINGS
from lit_optim.config.targets import TARGET
from lit_optim.errors import UsageError

#: A key of the configuration: dotted names, or positions in a list.
KEY = re.compile(r"[A-Za-z_]\w*(\.[\w-]+)*", re.ASCII)
#: Belongs to one start of a run, or is a matter of trust: never taken from a file.
LEFT_OUT = ("resume", "branch_from", "cooldown", "allow")
#: A reference to another key of the configuration; no resolver, which has a colon.
REFERENCE = re.compile(r"\$\{(\w+)(\.[\w-]+)*\}", re.ASCII)
#: A file name or word: no directory, no scheme, no hidden file.
PLAIN = re.compile(r"\w[\w .,=+:-]*", re.ASCII)
NAME = re.compile(r"(\w[\w .,=+-]*)?", re.ASCII)
WORDS = re.compile(r"[\w./-]+", re.ASCII)  # of a metric: val/loss

#: Where a search keeps its studies, and what it searches, for all and for one optimizer.
STORAGE, SPACE = "search.storage", "search.space"
BY_OPTIMIZER = re.compile(r"^by_optimizer\.[^.]+")
#: What no search decides.
NOT_SEARCHED = (*LEFT_OUT, *SWEEP_SETTINGS, "hydra")

#: A key within a mapping of those groups.
INNER_KEY = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)

#: Groups whose objects write files or open connections: text is accepted only for these keys, and
#: only in this form. Numbers, true, false and null are accepted for any key that is not a place: a
#: directory may be called 123.
TEXT: dict[str, dict[str, re.Pattern[str]]] = {
    "trainer": {
        "accelerator": PLAIN,
        "strategy": PLAIN,
        "devices": PLAIN,
        "precision": PLAIN,
        "profiler": PLAIN,
        "gradient_clip_algorithm": PLAIN,
        "deterministic": PLAIN,
        "max_time": PLAIN,
        "val_check_interval": PLAIN,
    },
    "logger": {"name": NAME, "version": NAME},
    "callbacks": {
        TARGET: WORDS,  # `check` allows classes of Lightning and of ours
        "filename": NAME,
        "monitor": WORDS,
        "metric": WORDS,
        "mode": PLAIN,
        "policy": PLAIN,
        "interval": PLAIN,
        "logging_interval": PLAIN,
        "annealing_strategy": PLAIN,
        "duration": PLAIN,
    },
}
#: Keys of these that may refer to a setting, as in `monitor: ${monitor}`.
REFERRING = ("monitor", "mode", "metric")


def stored_overrides(
    lines: Sequence[str],
    source: str,
    is_replaced: Callable[[str], bool] = lambda key: False,
    multirun: bool = False,
) -> list[Override]:
    """Parse and check overrides that were read from a file.

    Args:
        lines: such as `optimizer=adamw`, as Hydra's `overrides.yaml` lists them.
        source: the file, for messages.
        is_replaced: whether a key of the file is replaced by what was typed.
        multirun: whether several values of a key are allowed, as in the line of a sweep.

    Returns:
        The overrides, without those in `LEFT_OUT` and those that are replaced.

    Raises:
        UsageError: a line is no override, or one that a file may not make.
    """
    try:
        overrides = parse_overrides(list(lines))
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    taken = []
    for override in overrides:
        key = override.key_or_group
        if key.split(".")[0] in LEFT_OUT or is_replaced(key):
            continue
        why_not = _objection(override, multirun)
        if why_not is not None:
            raise UsageError(
                f"{source} has {override.input_line}: {why_not}, which a directory cannot decide; "
                "type it if you want it, or delete that line"
            )
        taken.append(override)
    return taken


def _objection(override: Override, multirun: bool) -> str | None:
    """Why a file may not make an override; None if it may."""
    key = override.key_or_group
    if override.package is not None or not _is_known(key):
        return f"{key} is not a key of a run"
    if override.is_delete():
        return None
    if override.is_sweep_override() and not multirun:
        return "several values"
    try:
        values = _values(override)
    except (HydraException, RecursionError):
        return "values that cannot be read one by one"
    if key == STORAGE and any(value is not None for value in values):
        return "a place to keep studies in"
    for value in values:
        for inner, part in _searched(key, value):
            if not _is_known(inner) or inner.split(".")[0] in NOT_SEARCHED:
                return f"{inner} is nothing to search for"
            if (why_not := _objection_to_values(inner, [part])) is not None:
                return why_not
    return _objection_to_values(key, values)


def _is_known(key: str) -> bool:
    root = key.split(".")[0]
    return bool(KEY.fullmatch(key)) and (root in groups() or root in _settings())


def _settings() -> Collection[str]:
    return signature(Settings).parameters


def _values(override: Override) -> list[Any]:
    """The value of an override, or all between which a sweep or a search chooses.

    Raises:
        UsageError: there are too many.
        HydraException: they cannot be read one by one.
        RecursionError: the same.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [value.start, value.end]
    if not override.is_sweep_override():
        return [value]
    override_values(override)  # refuses too many
    parse = OverridesParser.create().parse_override  # in quotes: without them another value
    lines = [f"x={text}" for text in override.sweep_string_iterator()]
    return [parse(line).value() for line in lines]


def _searched(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The keys that `search.space` searches, each with every value that it may get."""
    if key != SPACE and not key.startswith(f"{SPACE}."):
        return
    if isinstance(value, Mapping) and not {"choice", "interval"} & set(value):
        for inner, content in value.items():
            yield from _searched(f"{key}.{inner}", content)
        return
    path = BY_OPTIMIZER.sub("optimizer", key.removeprefix(f"{SPACE}."))
    if isinstance(value, Mapping):
        for contents in value.values():
            yield from ((path, one) for one in (contents if isinstance(contents, list) else []))
    elif isinstance(value, str) and value:  # as it could be typed
        (override,) = parse_overrides([f"{path}={value}"])
        yield from ((path, one) for one in _values(override))
    elif value is not None:
        yield path, value


def _objection_to_values(key: str, values: Sequence[Any]) -> str | None:
    """Why a file may not give a key any of these values; None if it may."""
    offered = groups()
    root, last = key.split(".")[0], key.rpartition(".")[2]
    if key in offered:
        names = offered[key]
        there = all(isinstance(value, str) and value in names for value in values)
        return None if there else f"no choice of {key} (one of your own wants {OPTION})"
    if key == "ckpt" and any(value not in (None, "best") for value in values):
        return "a file to load"
    known = {*offered, *_settings()}
    for inner, part in (pair for value in values for pair in _parts(last, value)):
        if (why_not := _objection_to_value(root, inner, part, known)) is not None:
            return why_not
    return None


def _parts(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value and all values within it, each with the name of its key."""
    yield key, value
    if isinstance(value, Mapping):
        for inner, content in value.items():
            yield from _parts(str(inner), content)
    elif isinstance(value, list):
        for content in value:
            yield from _parts(key, content)


def _objection_to_value(root: str, key: str, value: Any, known: Collection[str]) -> str | None:
    """Why a file may not have a part of a value, including the keys of a mapping."""
    if isinstance(value, Mapping):
        for inner in value:
            if "${" in str(inner) or (root in TEXT and not INNER_KEY.fullmatch(str(inner))):
                return f"{inner!r} is not the name of a key"
    if isinstance(value, str):
        return _objection_to_text(root, key, value, known)
    if value is not None and root in TEXT and OF_A_PLACE.fullmatch(key):
        return f"{key} is where something is"
    return None


def _objection_to_text(root: str, key: str, text: str, known: Collection[str]) -> str | None:
    referred = [found[1] for found in REFERENCE.finditer(text)]
    if "${" in REFERENCE.sub("", text) or not set(referred) <= set(known):
        return "it looks outside of the configuration"
    if referred and key == TARGET:
        return "a class under another name"
    if root not in TEXT:
        return None
    allowed = TEXT[root].get(key)
    if allowed is None:
        where = f"{root}.*.{key}" if root in ("logger", "callbacks") else f"{root}.{key}"
        return f"text for {where}"
    if referred and key in REFERRING and not set(referred) & set(groups()):
        return None
    return None if allowed.fullmatch(text) else f"{key} is not a plain name"
