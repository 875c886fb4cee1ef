"""Keeps the state of an optimizer in one place where Fabric and Lightning imitate it.

Fabric and Lightning wrap an optimizer in an object of a class that they make on the spot, of their
wrapper and the optimizer's class:

    type("FabricAdamW", (_FabricOptimizer, AdamW), {})

What the wrapper does not define itself, such as `eval` or `add_param_group`, is then the
optimizer's method, but on the wrapper: an attribute that it sets is not set in the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import getattr_static, isfunction
from typing import Any

from torch.optim import Optimizer


class Imitated:
    """An optimizer whose methods, called on an imitation of it, are called on itself."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if wrapper := _imitating_wrapper(cls):
            for name in dir(cls):
                is_wrappers = name.startswith("_") or hasattr(wrapper, name)
                if not is_wrappers and isfunction(getattr_static(cls, name)):
                    setattr(cls, name, _forward(name))


def _imitating_wrapper(cls: type) -> type | None:
    """The class of the wrapper if `cls` is made of one and of an optimizer's class."""
    if len(cls.__bases__) != 2:
        return None
    wrapper, imitated = cls.__bases__
    is_wrapper = isinstance(getattr(wrapper, "optimizer", None), property)
    if is_wrapper and not issubclass(wrapper, Optimizer) and issubclass(imitated, Optimizer):
        return wrapper
    return None


def _forward(name: str) -> Callable[..., Any]:
    def method(imitation: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(imitation.optimizer, name)(*args, **kwargs)

    method.__name__ = name
    return method
