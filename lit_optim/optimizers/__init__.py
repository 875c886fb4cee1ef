"""The algorithms, one file each. A class is found by the name of its file; there is no list.

`AdamW` is in `adamw.py`, `ScheduleFreeAdamW` in `schedule_free_adamw.py`. What the algorithms are
built on is in `base`.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_optim.errors import UsageError, suggest
from lit_optim.lazy_names import look_up_lazily


@cache
def class_places() -> dict[str, str]:
    """The classes of the optimizers, each with its module; read from the sources, not imported."""
    places = {}
    for path in sorted(Path(__path__[0]).glob("*.py")):
        for name in re.findall(r"^class (\w+)", path.read_text("utf-8"), re.MULTILINE):
            if name.lower() == path.stem.replace("_", ""):
                places[name] = f"{__name__}.{path.stem}"
    return places


__getattr__, __dir__ = look_up_lazily(__name__, class_places)


def find_optimizer(name: str) -> Any:
    """Find the class of an optimizer by its name on the command line, or by its own.

    Raises:
        UsageError: there is no such optimizer; names the nearest one.
    """
    classes = dict(_classes())
    for key, optimizer in classes.items():
        if name in (key, optimizer.__name__):
            return optimizer
    near = suggest(name, classes) or "; lit-optim optimizers lists them"
    raise UsageError(f"unknown optimizer {name!r}{near}")


def _classes() -> Iterator[tuple[str, Any]]:
    for module in pkgutil.iter_modules(__path__):
        for name, value in vars(import_module(f"{__name__}.{module.name}")).items():
            of_this_file = name.lower() == module.name.replace("_", "") and inspect.isclass(value)
            # a base class has no hyperparameters
            own = of_this_file and hasattr(value, "step")
            if own and "lr" in inspect.signature(value).parameters:
                yield module.name, value
