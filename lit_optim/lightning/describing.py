"""Describes wrong arguments in messages."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any


def describe_value(value: Any) -> str:
    """Describe a value in a few words."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, partial):
        return f"a partial of {describe_value(value.func)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '?')}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
