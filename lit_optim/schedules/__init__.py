"""Schedules of the lr and of other hyperparameters, by name.

    from lit_optim import schedules as S

    S.cosine_warmup("5%")

A schedule is found by its mark in whatever file it is (see `registry`); there is no list. Only
`adapter` and what attaches schedules to optimizers import torch.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

#: Classes that code with schedules needs, and their modules.
CLASSES = {
    "Schedule": "core",
    "ScheduledLR": "adapter",
}


class _Package(ModuleType):
    """This package, in which a schedule hides the module of its name, not the other way round."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; `import` sets every submodule."""
        if isinstance(value, ModuleType):
            if value.__name__ != f"{__name__}.{name}":  # an old name of a module; `moved_names`
                return
            value = vars(value).get(name, value)
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if any(name == module.name for module in pkgutil.iter_modules(__path__)):
        import_module(f"{__name__}.{name}")
        return globals()[name]
    if name in CLASSES:
        return getattr(import_module(f"{__name__}.{CLASSES[name]}"), name)
    functions = _functions()
    if name == "__all__":
        return [*functions, *CLASSES]
    if name not in functions:
        near = import_module("lit_optim.errors").suggest(name, functions)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{near}")
    globals()[name] = functions[name]
    return functions[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])


def _functions() -> dict[str, Callable[..., Any]]:
    functions: dict[str, Callable[..., Any]]
    functions = import_module(f"{__name__}.registry").functions_by_name()
    return functions


sys.modules[__name__].__class__ = _Package
