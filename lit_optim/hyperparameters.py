"""Types and ranges of arguments, read from the annotations of a constructor.

    lr: Annotated[float, "> 0"]
    betas: Annotated[tuple[float, float], "in [0, 1)"]

The configuration (see `signatures`), the constructor and the documentation use the same annotation.
A number with a range is finite; NaN and bools are not numbers.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typing_extensions import Unpack

from lit_optim.errors import UsageError, show

#: `Unpack` of typing_extensions, and typing's own from Python 3.11 on.
UNPACKS = {get_origin(Unpack[dict]), Unpack, getattr(typing, "Unpack", Unpack)}
RANGE = re.compile(
    r"(?P<op>>=|>|<=|<) ?(?P<bound>\S+)|in (?P<open>[\[(])(?P<lo>\S+), (?P<hi>\S+)(?P<close>[\])])"
)


def accepts(value: Any, annotation: Any) -> bool:
    """Whether `value` fits `annotation`; a value of an unknown type is accepted."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return accepts(value, args[0]) and all(_in_range(value, text) for text in args[1:])
    if origin in (Union, types.UnionType):
        return any(accepts(value, option) for option in args)
    if origin is Literal:
        return value in args
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and type(value) is not bool and value == value
    if annotation is int:
        return isinstance(value, int) and type(value) is not bool
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(accepts(item, args[0]) for item in value)
        return len(value) == len(args) and all(map(accepts, value, args))
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(accepts(item, args[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(accepts(v, args[1]) for v in value.values())
    return True


def describe(annotation: Any) -> str:
    """Describe what `annotation` accepts, in words that follow "must be"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(args[0]), *args[1:]])
    if origin in (Union, types.UnionType):
        named = [option for option in args if get_origin(option) is Literal]
        values = tuple(value for option in named for value in get_args(option))
        options: list[Any] = [Literal[values]] if values else []
        options += [option for option in args if option not in named]
        return " or ".join(dict.fromkeys(map(describe, options)))
    if origin is Literal:
        return "one of " + ", ".join(dict.fromkeys(map(str, args)))
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        kinds = {describe(arg) for arg in args}
        return (
            f"{len(args)} numbers"
            if kinds <= {"a number", "a whole number"}
            else f"{len(args)} values"
        )
    if origin in (tuple, list, Sequence):
        return "a list"
    if origin in (dict, Mapping):
        return "a mapping" if args[1] is Any else f"a mapping of names to {describe(args[1])}"
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return "null" if annotation in (None, type(None)) else plain.get(annotation, "something else")


def check(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Check `values` against the annotations of `function`.

    Raises:
        ValueError: names the argument, the value and what is allowed.
    """
    hints = hints_of(function)
    for name, value in values.items():
        if name in hints and not accepts(plain(value), hints[name]):
            raise UsageError(f"{name} must be {describe(hints[name])}, got {show(value)}")


def plain(value: Any) -> Any:
    """Convert numbers, vectors, lists and mappings of other libraries to Python's own."""
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(map(plain, value))
    if isinstance(value, Mapping):
        return plain_values(value)
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or not hasattr(value, "tolist"):
        return value
    if all(size == 1 for size in shape):
        return value.item()
    return value.tolist() if len(shape) == 1 else value


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert each value by `plain`."""
    return {name: plain(value) for name, value in values.items()}


@cache
def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function by argument, ranges included, those of `**kwargs` too."""
    hints = typing.get_type_hints(function, include_extras=True)
    for hint in list(hints.values()):
        if get_origin(hint) in UNPACKS:
            hints |= typing.get_type_hints(get_args(hint)[0], include_extras=True)
    return hints


def _in_range(value: Any, text: str) -> bool:
    if isinstance(value, list | tuple):
        return all(_in_range(item, text) for item in value)
    match = RANGE.fullmatch(text)
    if match is None or not isinstance(value, int | float):
        return True
    if abs(value) > sys.float_info.max:  # an infinity, or an int that is as good as one
        return False
    if match["op"]:
        bound = float(match["bound"])
        return {">": value > bound, ">=": value >= bound, "<": value < bound, "<=": value <= bound}[
            match["op"]
        ]
    low, high = float(match["lo"]), float(match["hi"])
    return (value >= low if match["open"] == "[" else value > low) and (
        value <= high if match["close"] == "]" else value < high
    )
