"""A storage that hands every call on to another one."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage

if TYPE_CHECKING:
    Base = Any  # its methods come from the loop below
else:
    Base = BaseStorage


class Forwarding(Base):  # type: ignore[misc]
    """A storage whose every method is a call of `_call`, which subclasses define.

    Args:
        storage: what is called.
        name: of it, in messages; without a password.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self.storage, self.name = storage, name

    def _call(self, method: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of the storage, by its name."""
        raise NotImplementedError


def _forward(name: str) -> Callable[..., Any]:
    def method(self: Forwarding, *arguments: Any, **more: Any) -> Any:
        return self._call(name, *arguments, **more)

    method.__name__ = name
    method.__doc__ = f"`{name}` of the storage."
    return method


for _name, _member in vars(BaseStorage).items():
    if callable(_member) and not _name.startswith("_"):
        setattr(Forwarding, _name, _forward(_name))
if not TYPE_CHECKING:
    abc.update_abstractmethods(Forwarding)
