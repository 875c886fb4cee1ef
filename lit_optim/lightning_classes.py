"""The classes of Lightning, from `lightning.pytorch` and from `pytorch_lightning`.

Both packages have the same code, but each has classes of its own: a Trainer of one does not
recognize a callback of the other. So our callbacks have the classes of all installed packages as
bases, and `is_a(callback, "callbacks.BaseFinetuning")` stands for isinstance with those of each.
One of the two packages is enough, and our own programs load the first one only.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from lit_optim.lean_start import is_lean
from lit_optim.missing import require

#: The packages, the preferred one first.
NAMES = ("lightning.pytorch", "pytorch_lightning")
#: The oldest major version with these names.
OLDEST = 2
#: The module in which both keep the logger of their messages.
RANK_ZERO = "lightning_utilities.core.rank_zero"


def packages() -> tuple[str, ...]:
    """Return the names of the packages that can be imported.

    Raises:
        ModuleNotFoundError: neither is installed.
    """
    return tuple(_load_packages())


@cache
def _load_packages() -> dict[str, ModuleType]:
    require("lightning", "pytorch_lightning", user="configure_optimizers")
    logs = [_log()] if any(sys.modules.get(name) for name in NAMES) else []
    loaded: dict[str, ModuleType] = {}
    for name in NAMES[:1] if is_lean() else NAMES:
        try:
            package = import_module(name)
        except Exception as error:
            missing = getattr(error, "name", None) in (name, name.partition(".")[0])
            if not (missing or loaded):
                raise  # it is installed, but broken; beside one that works that does not matter
            continue
        if int(package.__version__.partition(".")[0]) >= OLDEST:
            loaded[name] = package
        logs.append(_log())
    # the package that is imported last would log everything under its own name
    vars(sys.modules[RANK_ZERO])["log"] = logs[0]
    return loaded


def _log() -> Any:
    """The logger of the package that was imported last."""
    return vars(sys.modules[RANK_ZERO])["log"]


def is_a(instance: object, *paths: str) -> TypeGuard[Any]:
    """Whether it is an instance of one of these classes of any package.

    Args:
        instance: what is tested.
        paths: names below the package, as in `callbacks.BaseFinetuning`.
    """
    return any(isinstance(instance, variants(path)) for path in paths)


@cache
def variants(path: str) -> tuple[type[Any], ...]:
    """Return a class of every package.

    Args:
        path: its name below the package, as in `callbacks.BaseFinetuning`.
    """
    return tuple(_find(package, path) for package in packages())


def variant_for(instance: object, path: str) -> Any:
    """Return a class or a function of the package that an instance comes from.

    Args:
        instance: of a class of Lightning, or of one derived from it.
        path: the name below the package.
    """
    for kind in type(instance).__mro__:
        for package in packages():
            if kind.__module__.startswith(f"{package}."):
                return _find(package, path)
    return _find(packages()[0], path)


def package_of(kind: type) -> str | None:
    """Return the package that a class is derived from."""
    modules = [base.__module__ for base in kind.__mro__]
    found = (name for name in NAMES for module in modules if module.startswith(f"{name}."))
    return next(found, None)


@cache
def _find(package: str, path: str) -> Any:
    module, _, name = f"{package}.{path}".rpartition(".")
    return getattr(import_module(module), name)


@cache
def _join(path: str) -> type[Any]:
    """Return a class that is derived from a class of every package."""
    kinds = variants(path)
    return kinds[0] if len(kinds) == 1 else type(kinds[0].__name__, kinds, {"__module__": __name__})


if TYPE_CHECKING:
    import pytorch_lightning
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.plugins import TorchCheckpointIO
    from lightning.pytorch.trainer.states import TrainerFn

    #: A module of either package, as an argument; we call both as we call the first.
    AnyLightningModule = LightningModule | pytorch_lightning.LightningModule
else:
    #: Base classes.
    Callback = _join("Callback")
    ModelCheckpoint = _join("callbacks.ModelCheckpoint")
    ModelSummary = _join("callbacks.ModelSummary")
    ProgressBar = _join("callbacks.ProgressBar")
    TorchCheckpointIO = _join("plugins.TorchCheckpointIO")
    #: In annotations, and what does not depend on the package.
    LightningDataModule, LightningModule, Logger, Trainer, TrainerFn = (
        variants(path)[0]
        for path in (
            "LightningDataModule", "LightningModule", "loggers.Logger", "Trainer",
            "trainer.states.TrainerFn",
        )
    )  # fmt: skip

    AnyLightningModule = LightningModule

__all__ = [
    "AnyLightningModule",
    "Callback",
    "LightningDataModule",
    "LightningModule",
    "Logger",
    "ModelCheckpoint",
    "ModelSummary",
    "ProgressBar",
    "TorchCheckpointIO",
    "Trainer",
    "TrainerFn",
    "is_a",
    "package_of",
    "packages",
    "variant_for",
    "variants",
]
