"""An optimizer around another one: the same param groups, the same state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.updates import count_updates

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


class Number:
    """An attribute of a wrapper that is a plain value and changes while training.

    It is kept in a dictionary: what goes around the wrapper, as Fabric and Lightning do, takes its
    class and its attributes, so that a value that is set there would be set beside the wrapper's.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: Any, owner: type) -> Any:
        return self if wrapper is None else wrapper.values[self.name]

    def __set__(self, wrapper: Any, value: Any) -> None:
        wrapper.values[self.name] = value


class Wrapper(Optimizer):
    """A torch optimizer that shares the `param_groups` and the `state` of the one it is around.

    So any schedule reaches the groups, and hyperparameters are changed where they always are. The
    state dict is that of `base`, and beside it, under the wrapper's own name, what it keeps
    (`Lookahead.2` around another Lookahead).
    Attributes that it has not are those of `base`.

    A subclass writes `step`, and declares what it keeps in `numbers` and `tensors`.
    """

    #: A loss scaler unscales the gradients itself: a fused `base` would not hear of the scale.
    _step_supports_amp_scaling: ClassVar[bool] = False

    #: Whether it can be around an optimizer with train() and eval().
    around_averaging: ClassVar[bool] = False
    #: Whether it can be around one that evaluates the loss itself.
    around_closures: ClassVar[bool] = True
    #: What it needs beside what `base` needs; see `requirements`.
    own_needs: ClassVar[tuple[str, ...]] = ()
    #: Attributes that are plain values and change while training, each a `Number`.
    numbers: ClassVar[tuple[str, ...]] = ()
    #: Attributes that are tensors by parameter.
    tensors: ClassVar[tuple[str, ...]] = ()

    base: Optimizer

    def __init__(self, base: Optimizer) -> None:
        name = type(self).__name__
        if not self.around_averaging and hasattr(base, "eval"):
            raise UsageError(
                f"wrapper: {name} cannot be around {type(base).__name__}, which averages itself"
            )
        if not self.around_closures and "closure" in getattr(base, "requirements", ()):
            raise UsageError(
                f"wrapper: {name} cannot be around {type(base).__name__}: both evaluate the loss "
                "again within a step"
            )
        self.__dict__["base"] = base
        self.__dict__["values"] = {}
        for attribute in self.tensors:
            self.__dict__[attribute] = {}
        super().__init__(base.param_groups, dict(base.defaults))
        self._link()

    def _link(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    @property
    def requirements(self) -> tuple[str, ...]:
        """What `base` and the wrapper need."""
        return (*getattr(self.base, "requirements", ()), *self.own_needs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "base" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.base, name)

    def step_base(self, closure: Callable[[], Any] | None) -> tuple[Any, bool]:
        """A step of `base`.

        Returns:
            the loss, and whether it was an update, as `lit_optim.updates` counts them.
        """
        updates = count_updates(self.base)
        before = updates.count
        loss = self.base.step(closure)
        return loss, updates.count > before

    def params(self) -> Iterator[Tensor]:
        """Every parameter, in the order of the groups."""
        for group in self.param_groups:
            yield from group["params"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to both."""
        known = self.__dict__.get("param_groups")
        if known is self.base.param_groups:
            self.base.add_param_group(param_group)
        elif known is not None:  # while it is made: the groups are there already
            known.append(param_group)

    def state_dict(self) -> dict[str, Any]:
        """That of `base`, and what is kept beside it."""
        places = {p: k for k, p in enumerate(self.params())}
        kept: dict[str, Any] = {name: getattr(self, name) for name in self.numbers}
        for name in self.tensors:
            kept[name] = {places[p]: value for p, value in getattr(self, name).items()}
        return self.base.state_dict() | {self._state_key(): kept}

    def _state_key(self) -> str:
        """The class's name; numbered from 2 on where wrappers of the same name are within."""
        name, base, depth = type(self).__name__, self.base, 1
        while isinstance(base, Wrapper):
            depth += type(base).__name__ == name
            base = base.base
        return name if depth == 1 else f"{name}.{depth}"

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave.

        Raises:
            UsageError: it is not of this wrapper.
        """
        rest, name = dict(state_dict), self._state_key()
        if name not in rest:
            raise UsageError(f"the saved state is of an optimizer without {name} around it")
        kept = rest.pop(name)
        self.base.load_state_dict(rest)
        self._link()
        params = list(self.params())
        for attribute in self.numbers:
            setattr(self, attribute, kept[attribute])
        for attribute in self.tensors:
            saved = {params[k]: value for k, value in kept[attribute].items()}
            moved = {p: value.to(p.device, copy=True) for p, value in saved.items()}
            setattr(self, attribute, moved)

    def __getstate__(self) -> dict[str, Any]:
        torchs = ("param_groups", "state", "defaults", "step")  # its own step, once it is watched
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in torchs and not name.startswith("_")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        base = self.base
        torchs = {"defaults": dict(base.defaults), "state": base.state}
        super().__setstate__(torchs | {"param_groups": base.param_groups})
        self._link()

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.base!r}"


class Wrapped:
    """Makes an optimizer and puts a wrapper around it: `Wrapped(AdamW, partial(Ema, decay=0.99))`.

    Args:
        make: an optimizer of param groups.
        wrap: what goes around it.
    """

    def __init__(
        self, make: Callable[..., Optimizer], wrap: Callable[[Optimizer], Optimizer]
    ) -> None:
        self.make, self.wrap = make, wrap

    @property
    def requirements(self) -> tuple[str, ...]:
        """What the optimizer needs; its groups are made by that."""
        return tuple(getattr(getattr(self.make, "func", self.make), "requirements", ()))

    def __call__(self, params: Any, **more: Any) -> Optimizer:
        """Made, and wrapped."""
        return self.wrap(self.make(params, **more))


def none(base: AnyOptimizer) -> AnyOptimizer:
    """Nothing around it."""
    return base


def unwrap(optimizer: Any) -> Any:
    """The optimizer within all wrappers."""
    while isinstance(optimizer, Wrapper):
        optimizer = optimizer.base
    return optimizer
