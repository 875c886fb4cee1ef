"""`@schedule` marks a function as a schedule; schedules are found by their names.

A schedule is a function that returns a `Schedule`. It is in a module of `schedules` or `compat`,
and has a YAML file of its name in conf/scheduler.
"""

from __future__ import annotations

import functools
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import check, hints_of, plain, plain_values
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.formula import FORMULA_ARGUMENTS

#: Where schedules are defined. A module with schedules is imported when one is looked up by its
#: name, so that schedules made of other schedules find these without importing them.
PACKAGES = ("lit_optim.schedules", "lit_optim.compat")
#: Arguments that had other names in earlier versions; configurations may still use these.
OLD_ARGUMENTS = {"ticks": "step_alignment"}

#: Every schedule whose module has been imported, by name.
_SCHEDULES: dict[str, Callable[..., Schedule | None]] = {}

P = ParamSpec("P")
S = TypeVar("S", bound=Schedule | None)


def schedule(function: Callable[P, S]) -> Callable[P, S]:
    """Mark a function as a schedule, and check its keyword arguments against its annotations."""

    @functools.wraps(function)
    def build_schedule(*args: P.args, **kwargs: P.kwargs) -> S:
        known = argument_names(function)
        given = {
            OLD_ARGUMENTS[key] if key in OLD_ARGUMENTS and key not in known else key: value
            for key, value in kwargs.items()
        }
        if len(given) < len(kwargs):
            old, new = next(pair for pair in OLD_ARGUMENTS.items() if pair[0] in kwargs)
            raise UsageError(f"{old} and {new} are the same argument: give only one of them")
        for key in given:
            if key == "optimizer":
                name = schedule_name(function)
                raise UsageError(
                    f"{name} takes no optimizer, what it returns does: {name}(...)(optimizer); "
                    f"lit_optim.lr_schedulers.{name} takes the optimizer and its own arguments"
                )
            if key not in known:
                raise UsageError(
                    f"{schedule_name(function)} takes no {key}{suggest(key, known)} (it takes "
                    f"{', '.join(known) or 'no arguments'})"
                )
        given = {key: _name_function(key, value) for key, value in given.items()}
        pairs = zip_longest(known[: len(args)], args)
        positional = [value if key is None else _name_function(key, value) for key, value in pairs]
        check(function, dict(zip(known, positional, strict=False)) | given)
        values: Any = list(map(plain, positional))
        by_name: Any = plain_values(given)
        made = function(*values, **by_name)
        if made is not None:
            made.note_call(function.__name__, dict(zip(known, values, strict=False)) | by_name)
        return made

    _SCHEDULES[schedule_name(function)] = build_schedule
    return build_schedule


def _name_function(key: str, value: Any) -> Any:
    """The dotted name of a function that is given in place of a formula; any other value itself.

    Raises:
        UsageError: it has none, so that the schedule could not be saved.
    """
    if key not in FORMULA_ARGUMENTS or not callable(value):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if module is None or getattr(sys.modules.get(module), name, None) is not value:
        raise UsageError(
            f"{key} must be a formula, such as '0.9 ** step', or a function of a module, which can "
            f"be saved by its name; got {show(value)}"
        )
    return f"{module}.{name}"


def schedule_name(function: Callable[..., Any]) -> str:
    """The name in a configuration: `lambda` for `lambda_`, since Python reserves the word."""
    return function.__name__.rstrip("_")


def argument_names(function: Callable[..., Any]) -> list[str]:
    """The names of a schedule's arguments, those of `**common` included."""
    function = getattr(function, "__wrapped__", function)
    return [name for name in hints_of(function) if name not in ("common", "return")]


def is_schedule(function: Any) -> bool:
    """Whether `@schedule` marked this function."""
    return any(function is known for known in _SCHEDULES.values())


def schedules_by_name() -> dict[str, Callable[..., Schedule | None]]:
    """Every schedule, `none` included, by its name in a configuration."""
    for module in _modules_with_schedules():
        import_module(module)
    return dict(_SCHEDULES)


def functions_by_name() -> dict[str, Callable[..., Schedule | None]]:
    """Every schedule by the name of its function: `lambda_`."""
    return {function.__name__: function for function in schedules_by_name().values()}


def _modules_with_schedules() -> Iterator[str]:
    """The modules in which a function is marked by `@schedule`; the others are not imported."""
    for package in PACKAGES:
        for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            spec = find_spec(module.name)
            if spec and spec.origin and "\n@schedule\n" in Path(spec.origin).read_text("utf-8"):
                yield module.name


def find_schedule(name: str) -> Schedule | None:
    """The schedule of a name as on the command line, with its defaults; None for `none`.

    Raises:
        UsageError: there is none, with the nearest name.
    """
    return find_function(name)()


def find_function(name: str) -> Callable[..., Schedule | None]:
    """The function of a schedule by its name as on the command line.

    Raises:
        UsageError: there is none, with the nearest name.
    """
    functions = schedules_by_name()
    plain_names = {key.replace("_", "").lower(): key for key in functions}
    if name not in functions:
        name = plain_names.get(name.replace("_", "").lower(), name)
    if name not in functions:
        near = suggest(name, functions) or "; lit-optim schedules lists them"
        raise UsageError(f"unknown schedule {name!r}{near}")
    return functions[name]
