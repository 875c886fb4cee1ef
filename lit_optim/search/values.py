"""Values within spaces: how many digits they have, how spaces are written, what is outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lit_optim.errors import UsageError, printable, show
from lit_optim.search.data import Choice, Scalar, Space, Span

#: For a proposed value; more would only make overrides hard to read.
DIGITS = 4


def shorten(value: Any, one: Span | Choice) -> Any:
    """A value with fewer digits, within the span; its last digit is far below what matters.

    It is also the same where two versions of a library differ in the last bit.
    """
    if isinstance(one, Choice):
        return value
    if one.is_whole:
        return int(value)
    width = one.high - one.low
    scale = min(abs(value), width) if one.is_log else width
    rounded = round(float(value), DIGITS - 1 - math.floor(math.log10(scale))) if scale else value
    return min(max(rounded, one.low), one.high)


def encode_space(space: Space) -> dict[str, str]:
    """A space as text by key, the same text for the same space."""
    return {key: describe(one) for key, one in space.items()}


def describe(one: Span | Choice) -> str:
    """A span or a choice as it is typed."""
    if isinstance(one, Choice):
        return f"choice({','.join(map(_format, one.values))})"
    low, high = (int(x) if one.is_whole else x for x in (one.low, one.high))
    text = f"interval({low!r},{high!r})"
    text = f"tag(log,{text})" if one.is_log else text
    return f"int({text})" if one.is_whole else text


def _format(value: Scalar) -> str:
    return "null" if value is None else str(value).lower() if value in (True, False) else str(value)


def check_values(values: object, space: Space, where: str) -> dict[str, Any]:
    """The values of a trial that a storage had, in the order of the space.

    They become overrides of runs, and anyone who can write to the storage may have put them there.

    Raises:
        UsageError: a key is missing or not searched, or a value is outside of the space.
    """
    if not isinstance(values, Mapping) or set(values) != set(space):
        given = ", ".join(map(str, values)) if isinstance(values, Mapping) else show(values)
        raise UsageError(
            f"{where}: has values of {printable(given)}, and the search is for {', '.join(space)}"
        )
    for key, one in space.items():
        if not _is_within(values[key], one):
            raise UsageError(f"{where}: {key}={show(values[key])} is not within {describe(one)}")
    return {key: values[key] for key in space}


def _is_within(value: object, one: Span | Choice) -> bool:
    if isinstance(one, Choice):
        return any(type(value) is type(known) and value == known for known in one.values)
    kinds = int if one.is_whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and one.low <= value <= one.high
