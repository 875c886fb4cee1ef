"""The algorithms, one file each. A class is found by the name of its file; there is no list.

`AdamW` is in `adamw.py`, `ScheduleFreeAdamW` in `schedule_free_adamw.py`. What the algorithms are
built on is in `base`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.metadata import version
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


@cache
def is_available(place: str) -> bool:
    """Whether the torch that is installed is new enough for an optimizer's module.

    The module's source says what it needs; neither it nor torch is imported.
    """
    source = Path(__path__[0], f"{place.rpartition('.')[2]}.py").read_text("utf-8")
    needed = re.search(r'^if torch\.__version__ < "(\d+)\.(\d+)"', source, re.MULTILINE)
    if needed is None:
        return True
    installed = re.findall(r"\d+", version("torch"))[:2]
    return [int(part) for part in installed] >= [int(part) for part in needed.groups()]


__getattr__, __dir__ = look_up_lazily(__name__, class_places, is_available)


def find_optimizer(name: str) -> Any:
    """Find the class of an optimizer by its name on the command line, or by its own.

    Raises:
        UsageError: there is no such optimizer; names the nearest one. Or it needs a newer torch.
    """
    for class_name, place in class_places().items():
        if name in (place.rpartition(".")[2], class_name):
            return getattr(import_module(place), class_name)
    names = [place.rpartition(".")[2] for place in class_places().values()]
    near = suggest(name, names) or "; lit-optim optimizers lists them"
    raise UsageError(f"unknown optimizer {name!r}{near}")
