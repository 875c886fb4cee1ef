"""What our own programs do not import, of what Lightning imports: half of the time.

Lightning needs one class and a container of torchmetrics, whose package imports 200 metrics, and
with them scipy and transformers where these are installed. The class can plot itself, for which it
imports matplotlib. And `pytorch_lightning` is there for the trainers of others: that of train.py is
of `lightning.pytorch`.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
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
        return getattr(_execute(self), name)


PLOT = f"{PACKAGE}.utilities.plot"


class _Drawable(type):
    """Stands for the type of matplotlib's axes in annotations, and knows them when asked."""

    def __instancecheck__(cls, one: object) -> bool:
        axes = sys.modules.get("matplotlib.axes")  # of a drawing there are none before that
        return axes is not None and isinstance(one, axes.Axes)


class _PlotLater(ModuleType):
    """What plots metrics, and the types of its arguments; the module is read when it is called."""

    _AX_TYPE = _Drawable("Axes", (), {})
    _PLOT_OUT_TYPE = tuple[Any, Any]
    _CMAP_TYPE = Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of any module
            raise AttributeError(name)
        if not name.startswith("plot_"):
            return getattr(_execute(self), name)

        def plot(*args: Any, **kwargs: Any) -> Any:
            return getattr(_execute(self), name)(*args, **kwargs)

        return plot


def _execute(module: ModuleType) -> ModuleType:
    """Make the real module of one that has waited."""
    if type(module) is not ModuleType:
        module.__class__ = ModuleType
        assert module.__spec__ is not None
        assert module.__spec__.loader is not None
        module.__spec__.loader.exec_module(module)
    return module


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
    for folder in spec.submodule_search_locations or ():
        plot = spec_from_file_location(PLOT, Path(folder, "utilities", "plot.py"))
        if plot is not None and Path(folder, "utilities", "plot.py").exists():
            later = module_from_spec(plot)
            later.__class__ = _PlotLater
            sys.modules[PLOT] = later
    _is_lean = True


def is_lean() -> bool:
    """Whether this is a program of ours, which uses the first package of Lightning only."""
    return _is_lean
