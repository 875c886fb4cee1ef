"""Floor 1: one file is one algorithm. Classes are found by their file's name, not listed.

`AdamW` stands in `adamw.py`; `ScheduleFreeAdamW` would stand in `schedule_free_adamw.py`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    for module in pkgutil.iter_modules(__path__):
        if name != module.name and name.lower() == module.name.replace("_", ""):
            return getattr(import_module(f"{__name__}.{module.name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
