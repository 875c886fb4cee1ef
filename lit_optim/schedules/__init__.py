"""Schedules of the lr and of other hyperparameters, by name.

    from lit_optim import schedules as S

    S.cosine_warmup("5%")

A schedule is found by its mark in whatever file it is (see `registry`); there is no list. Only
`adapter` and what attaches schedules to optimizers import torch.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from lit_optim.lazy_names import look_up_lazily

#: Classes that code with schedules needs, and their modules.
CLASSES = {
    "Schedule": "lit_optim.schedules.core",
    "ScheduledLR": "lit_optim.schedules.adapter",
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


def _find_places() -> dict[str, str]:
    functions = import_module(f"{__name__}.registry").functions_by_name()
    return CLASSES | {name: function.__module__ for name, function in functions.items()}


_look_up, __dir__ = look_up_lazily(__name__, _find_places)


def __getattr__(name: str) -> Any:
    if any(name == module.name for module in pkgutil.iter_modules(__path__)):
        import_module(f"{__name__}.{name}")
        return globals()[name]
    value = _look_up(name)
    if name != "__all__":
        globals()[name] = value
    return value


sys.modules[__name__].__class__ = _Package
