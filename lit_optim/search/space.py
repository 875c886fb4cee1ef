"""What a sampler decides: ranges and choices, as typed or as a file says them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override

from lit_optim.config.reading import parse_overrides
from lit_optim.errors import UsageError, show
from lit_optim.search.data import Choice, Scalar, Space, Span

#: Stands for the range that the optimizer's class declares.
AUTO = "auto"
FORMS = "auto, {interval: [low, high]} or {choice: [a, b]}"
LOG = "log"


def is_searched(override: Override) -> bool:
    """Whether the sampler decides a typed key: by an interval, `choice()` or `auto`."""
    if override.is_delete():
        return False
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return not value.simple_form or bool(value.tags)
    return isinstance(value, IntervalSweep) or value == AUTO


def read_typed(override: Override) -> Span | Choice | None:
    """The range or the choice that was typed; None: `auto`.

    Raises:
        UsageError: it is no range or choice.
    """
    line, value = str(override.input_line), override.value()
    if isinstance(value, IntervalSweep):
        return make_span(line, value.start, value.end, value.tags)
    if isinstance(value, ChoiceSweep):
        return make_choice(line, value.list, value.tags)
    return None


def make_span(line: str, low: Any, high: Any, tags: set[str]) -> Span:
    """A range, checked.

    Args:
        line: where it is said, for messages.
        low: the smallest; whole numbers if both ends are.
        high: the largest.
        tags: `log`, or none.

    Raises:
        UsageError: there is nothing between its ends, or it has another tag.
    """
    _check_tags(line, tags)
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high)):
        raise UsageError(f"{line}: both ends must be finite numbers")
    if low >= high:
        raise UsageError(f"{line}: the first end must be below the second")
    if LOG in tags and low <= 0:
        raise UsageError(f"{line}: on a log scale both ends must be > 0")
    is_whole = isinstance(low, int) and isinstance(high, int)
    return Span(low, high, is_log=LOG in tags, is_whole=is_whole)


def make_choice(line: str, values: list[Any], tags: set[str] | None = None) -> Choice:
    """A choice, checked.

    Raises:
        UsageError: nothing to choose from, a value twice, or a tag.
    """
    _check_tags(line, tags or set(), known=())
    plain = [_plain(value) for value in values]
    if len(plain) < 2:
        raise UsageError(f"{line}: a choice needs two values or more")
    for place, value in enumerate(plain):
        if value in plain[:place]:
            raise UsageError(f"{line}: has {show(value)} twice")
    return Choice(tuple(plain))


def _check_tags(line: str, tags: set[str], known: tuple[str, ...] = (LOG,)) -> None:
    for tag in sorted(tags):
        if tag not in known:
            takes = f"; it takes {', '.join(known)}" if known else ""
            raise UsageError(f"{line}: unknown tag {tag}{takes}")


def _plain(value: Any) -> Scalar:
    """A value that a storage can hold: of a list or mapping the text."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return value_text(value)


def value_text(value: Any) -> str:
    """A value as it stands behind `key=` in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(value_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{value_text(one)}" for key, one in value.items()) + "}"
    return str(value)


def read_listed(path: str, key: str, said: Any) -> Span | Choice | None:
    """A range or choice of a file; None: `auto`.

    Args:
        path: where it is said, for messages.
        key: that is searched.
        said: `auto`, what could be typed behind `key=`, `{interval: [low, high]}`, which may have
            `log: true` and `int: true`, or `{choice: [a, b]}`.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(said, str):
        (override,) = parse_overrides([f"{key}={said}"])
        if is_searched(override):
            return read_typed(override)
    if isinstance(said, Mapping) and isinstance(said.get("choice"), list) and len(said) == 1:
        return make_choice(path, said["choice"])
    if isinstance(said, Mapping) and set(said) <= {"interval", "log", "int"}:
        ends = said.get("interval")
        if isinstance(ends, list) and len(ends) == 2:
            kind = int if said.get("int") else float
            try:
                low, high = map(kind, ends)
            except (TypeError, ValueError, OverflowError):
                raise UsageError(f"{path}: both ends must be finite numbers") from None
            return make_span(path, low, high, {LOG} if said.get("log") else set())
    raise UsageError(f"{path} must be {FORMS}, got {show(said)}")


def flatten_space(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says about each key; keys may be nested or dotted."""
    found: dict[str, Any] = {}
    for key, value in said.items():
        if isinstance(value, Mapping) and not {"interval", "choice"} & set(value):
            found |= {f"{key}.{name}": one for name, one in flatten_space(value).items()}
        else:
            found[str(key)] = value
    return found


def edges(space: Space) -> dict[str, tuple[Any, ...]]:
    """The values of each key at which a configuration is checked: both ends, every choice."""
    return {
        key: one.values if isinstance(one, Choice) else (one.low, one.high)
        for key, one in space.items()
    }
