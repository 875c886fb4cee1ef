"""What a sampler decides: ranges and choices, as typed or as a file says them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString
from hydra.errors import HydraException

from lit_optim.config.paths import quote
from lit_optim.config.places import groups
from lit_optim.config.reading import parse_overrides
from lit_optim.errors import UsageError, show, suggest
from lit_optim.search.data import Choice, Scalar, Span

LR = "optimizer.lr"
#: Stands for the range of lrs that the optimizer's class declares.
AUTO = "auto"
FORMS = "auto, {interval: [low, high]} or {choice: [a, b]}"
#: What stands beside `interval` in a file.
FLAGS = ("log", "int")
LOG = "log"


def is_searched(override: Override) -> bool:
    """Whether the sampler decides a typed key: by an interval, `choice()` or `auto`."""
    if override.is_delete():
        return False
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return not value.simple_form or bool(value.tags)
    return isinstance(value, IntervalSweep) or is_auto(override)


def is_auto(override: Override) -> bool:
    """Whether the lr is to be searched in its usual range; other keys may have a value `auto`."""
    return override.key_or_group == LR and override.value() == AUTO


def plain_line(override: Override) -> str:
    """An override for messages, without the signs that it got for Hydra."""
    return str(override.input_line).lstrip("+")


def read_typed(override: Override) -> Span | Choice | None:
    """The range or the choice that was typed; None: `auto`.

    Raises:
        UsageError: it is no range or choice.
    """
    line, value = plain_line(override), override.value()
    if isinstance(value, IntervalSweep):
        if override.key_or_group in groups():
            raise UsageError(f"{line}: choices are names; use choice(a,b)")
        return make_span(line, value.start, value.end, value.tags)
    if isinstance(value, ChoiceSweep):
        for tag in value.tags:
            raise UsageError(f"{line}: unknown tag {tag}; a choice takes none")
        return make_choice(line, value.list, list(override.sweep_string_iterator()))
    return None


def make_span(line: str, low: Any, high: Any, tags: set[str]) -> Span:
    """A range, checked.

    Args:
        line: where it is given, for messages.
        low: the smallest; whole numbers if both ends are.
        high: the largest.
        tags: `log`, or none.

    Raises:
        UsageError: there is nothing between its ends, or it has another tag.
    """
    for tag in sorted(tags - {LOG}):
        raise UsageError(f"{line}: unknown tag {tag}; an interval takes {LOG}")
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high)):
        raise UsageError(f"{line}: both ends must be finite numbers")
    if low == high:
        raise UsageError(f"{line}: both ends are {low:g}, so there is nothing to search")
    if low > high:
        raise UsageError(f"{line}: the first end must be below the second")
    if LOG in tags and low <= 0:
        raise UsageError(f"{line}: on a log scale both ends must be > 0")
    is_whole = isinstance(low, int) and isinstance(high, int)
    return Span(low, high, is_log=LOG in tags, is_whole=is_whole)


def make_choice(line: str, values: Sequence[Any], texts: Sequence[str]) -> Choice:
    """A choice, checked.

    Args:
        line: where it is given, for messages.
        values: to choose from.
        texts: the same as they stand behind `key=`.

    Raises:
        UsageError: nothing to choose from, or a value twice.
    """
    if len(values) < 2:
        raise UsageError(f"{line}: a choice needs two values or more")
    plain = [_plain(value, text) for value, text in zip(values, texts, strict=True)]
    refuse_twice(line, plain)
    return Choice(tuple(plain), tuple(texts))


def refuse_twice(line: str, values: Sequence[Any]) -> None:
    """Refuse a value that is there twice; 1, 1.0 and true are one, for a storage too.

    Raises:
        UsageError: naming it.
    """
    for place, value in enumerate(values):
        if value in values[:place]:
            raise UsageError(f"{line}: has {show(value)} twice")


def values_of(override: Override) -> list[Any]:
    """The values that are typed with commas; none where something else makes them."""
    value = override.value()
    if not isinstance(value, ChoiceSweep):
        return []
    return [one.text if isinstance(one, QuotedString) else one for one in value.list]


def _plain(value: Any, text: str) -> Scalar:
    """A value that a storage can hold: of a list or a mapping its text."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return text


def choice_text(key: str, one: Choice, value: Scalar) -> str:
    """A value of a choice as it stands behind `key=` in an override."""
    place = one.values.index(value)
    return one.texts[place] if one.texts else value_text(key, value)


def value_text(key: str, value: Any) -> str:
    """A value as it stands behind `key=` in an override, in quotes where it needs them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(value_text(key, one) for one in value) + "]"
    if isinstance(value, Mapping):
        inner = (f"{name}:{value_text(key, one)}" for name, one in value.items())
        return "{" + ",".join(inner) + "}"
    if not isinstance(value, str):
        return repr(value)
    try:
        (read,) = parse_overrides([f"{key}={value}"])
        return value if read.value() == value else quote(value)
    except (UsageError, HydraException):
        return quote(value)


def read_listed(path: str, key: str, given: Any) -> Span | Choice | None:
    """A range or choice of a file; None: `auto`.

    Args:
        path: where it is given, for messages.
        key: that is searched.
        given: `auto`, what could be typed behind `key=`, `{interval: [low, high]}`, which may have
            `log: true` and `int: true`, or `{choice: [a, b]}`.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(given, str):
        if given == AUTO and key != LR:
            raise UsageError(f"{path}: {AUTO} is for {LR}; for another key, give an interval")
        (override,) = parse_overrides([f"{key}={given}"])
        if is_searched(override):
            return read_typed(override)
    elif isinstance(given, Mapping) and "choice" in given:
        values = given["choice"]
        if set(given) == {"choice"} and isinstance(values, list):
            _check_names(path, key, values)
            return make_choice(path, values, [value_text(key, value) for value in values])
    elif isinstance(given, Mapping) and set(given) <= {"interval", *FLAGS}:
        ends, flags = given.get("interval"), [given.get(flag, False) for flag in FLAGS]
        if isinstance(ends, list) and len(ends) == 2 and all(isinstance(x, bool) for x in flags):
            return _read_interval(path, key, ends, *flags)
    raise UsageError(f"{path} must be {FORMS}, got {show(given)}")


def _check_names(path: str, key: str, values: list[Any]) -> None:
    known = groups().get(key)
    for value in values:
        if known is not None and value not in known:
            near = suggest(str(value), known) or f"; it is one of {', '.join(known)}"
            raise UsageError(f"{path}: unknown {key} {show(value)}{near}")


def _read_interval(path: str, key: str, ends: list[Any], is_log: bool, is_whole: bool) -> Span:
    if key in groups():
        raise UsageError(f"{path}: choices are names; use choice: [a, b]")
    for end in ends:
        if not isinstance(end, int | float) or isinstance(end, bool) or not math.isfinite(end):
            raise UsageError(f"{path}: both ends must be finite numbers, got {show(end)}")
        if is_whole and end != int(end):
            raise UsageError(f"{path}: with int both ends must be whole numbers, got {show(end)}")
    low, high = map(int if is_whole else float, ends)
    return make_span(path, low, high, {LOG} if is_log else set())


def flatten_space(given: Any, path: str = "search.space") -> dict[str, Any]:
    """What a file says about each key; keys may be nested or dotted.

    Raises:
        UsageError: it is no mapping.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"{path} must be a mapping of keys to {FORMS}, got {show(given)}")
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping) and value and not {"interval", "choice"} & set(value):
            inner = flatten_space(value, f"{path}.{key}")
            found |= {f"{key}.{name}": one for name, one in inner.items()}
        elif value is not None:  # null takes back what a file says
            found[str(key)] = value
    return found


def edges(one: Span | Choice) -> list[Any]:
    """The values at which a configuration is checked: both ends of a range, or every choice."""
    if isinstance(one, Span):
        return [one.low, one.high]
    parse = OverridesParser.create().parse_override  # of a list or a mapping there is the text
    return [parse(f"x={text}").value() for text in edge_texts("x", one)]


def edge_texts(key: str, one: Span | Choice) -> list[str]:
    """The same as they stand behind `key=`."""
    if isinstance(one, Span):
        return [repr(one.low), repr(one.high)]
    return [choice_text(key, one, value) for value in one.values]
