"""Hands tasks, state and results over to other processes, and back."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

#: Where cloudpickle may be installed.
CLOUDPICKLE = ("cloudpickle", "joblib.externals.cloudpickle")


def pack(value: Any) -> bytes:
    """Pickle a value; what pickle cannot, such as a closure, by cloudpickle if it is installed.

    Nor can pickle what a notebook defines: a new process has no main program to import it from.
    """
    pickler = None if has_main_file() else _find_cloudpickle()
    try:
        return pickle.dumps(value) if pickler is None else bytes(pickler.dumps(value))
    except Exception:
        other = _find_cloudpickle()
        if other in (None, pickler):
            raise
        return bytes(other.dumps(value))


def try_to_pack(value: Any) -> bytes | None:
    """A pickled value; None where that is impossible, or it could not be read again."""
    try:
        packed = pack(value)
        pickle.loads(packed)
        return packed
    except Exception:
        return None


def _find_cloudpickle() -> Any:
    """The module, or None where it is not installed."""
    for name in CLOUDPICKLE:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def has_main_file() -> bool:
    """Whether a new process can import what was started as the main program."""
    main = sys.modules["__main__"]
    return getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")


@dataclass(frozen=True)
class FunctionReference:
    """A function by its name.

    Args:
        module: where it is.
        name: in the module; a decorator may have taken it.
        depth: the number of decorators to look behind.
    """

    module: str
    name: str
    depth: int

    def resolve(self) -> Any:
        """Find the function in this process."""
        found: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        for _ in range(self.depth):
            found = found.__wrapped__
        return found


def refer_to(function: Callable[..., Any]) -> FunctionReference | None:
    """Name a function that a new process finds again, such as one decorated by `hydra.main`.

    Returns:
        None where it has no name of its own, as in a notebook.
    """
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not module or not name or (module == "__main__" and not has_main_file()):
        return None
    for depth in range(3):
        reference = FunctionReference(module, name, depth)
        try:
            if reference.resolve() is function:
                return reference
        except (ImportError, AttributeError):
            return None
    return None


@dataclass
class ProcessState:
    """What this process holds for all jobs, each pickled by itself: some parts cannot be."""

    singletons: list[bytes]
    resolvers: dict[str, bytes]

    @classmethod
    def read(cls) -> ProcessState:
        """The state of this process."""
        state = Singleton.get_state()
        singletons = map(try_to_pack, state["instances"].values())
        resolvers = {k: try_to_pack(v) for k, v in state["omegaconf_resolvers"].items()}
        return cls(
            [packed for packed in singletons if packed is not None],
            {name: packed for name, packed in resolvers.items() if packed is not None},
        )

    def restore(self) -> None:
        """Make it that of this process, which has already imported the app."""
        for packed in self.singletons:
            one = pickle.loads(packed)
            Singleton._instances[type(one)] = one
        for name, packed in self.resolvers.items():
            if not OmegaConf.has_resolver(name):
                BaseContainer._resolvers[name] = pickle.loads(packed)
