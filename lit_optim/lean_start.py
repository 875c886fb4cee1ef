"""What our own programs do not import, of what Lightning imports: a third of the time.

Lightning needs one class and a container of torchmetrics, whose package imports 200 metrics, and
with them scipy and transformers where these are installed. And `pytorch_lightning` is there for the
trainers of others: that of train.py is of `lightning.pytorch`.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGE = "torchmetrics"
#: What Lightning takes from it, and in which of its modules that is.
TAKEN = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}
#: The name of its logger, which modules of its own take from the package.
LOGGER = "_logger"


class _Later(ModuleType):
    """A package that is executed when a name is asked for that is not among the few above."""

    def __getattr__(self, name: str) -> Any:
        if name == LOGGER:
            return logging.getLogger(PACKAGE)
        if name in TAKEN:
            if name != "__version__":
                import_module(f"{PACKAGE}.utilities")  # its modules import each other in this order
            return getattr(import_module(f"{PACKAGE}.{TAKEN[name]}"), name)
        if name.startswith("__"):  # asked of any module
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


_is_lean = False


def start_lean() -> None:
    """Let this process import less with Lightning; called before torch and Lightning are imported.

    All of torchmetrics is there as soon as anything asks for it.
    """
    global _is_lean
    if PACKAGE in sys.modules or (spec := find_spec(PACKAGE)) is None:
        return
    module = module_from_spec(spec)
    module.__class__ = _Later
    sys.modules[PACKAGE] = module
    _is_lean = True


def is_lean() -> bool:
    """Whether this is a program of ours, which uses the first package of Lightning only."""
    return _is_lean
