"""Optimizers that wrap another optimizer and share its param groups and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError, describe_value
from lit_optim.imitated import Imitated
from lit_optim.sharding.zero import check_under_zero, find_zero
from lit_optim.updates import count_updates

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


class Number:
    """An attribute of a wrapper that is a plain value and changes during training.

    The value is stored in a dictionary, not as an instance attribute: copies of the attributes, as
    older versions of Fabric and Lightning make them, share the dictionary.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: Any, owner: type) -> Any:
        return self if wrapper is None else wrapper.values[self.name]

    def __set__(self, wrapper: Any, value: Any) -> None:
        wrapper.values[self.name] = value


class Wrapper(Imitated, Optimizer):
    """A torch optimizer that wraps another one and has its `param_groups` and `state`.

    A schedule that edits the param groups of the wrapper edits those of `base`. The state dict is
    that of `base` plus the wrapper's own state, under the name of its class (`Lookahead.2` for a
    Lookahead around another one). Attributes that the wrapper does not have are looked up in
    `base`. Hooks of the wrapper see its step and its state dict, hooks of `base` those of `base`.

    A subclass implements `step`, and declares its own state in `numbers` and `tensors`.

    Args:
        base: the optimizer to wrap.

    Raises:
        UsageError: it cannot wrap an optimizer of this kind.
    """

    #: A loss scaler has to unscale the gradients itself: it would not pass its scale to a fused
    #: `base`.
    _step_supports_amp_scaling: ClassVar[bool] = False

    #: Whether it can wrap an optimizer that averages its weights, which has train() and eval().
    can_wrap_averaging: ClassVar[bool] = False
    #: Whether it can wrap an optimizer that calls the closure itself.
    can_wrap_closures: ClassVar[bool] = True
    #: Its requirements besides those of `base`; see `lit_optim.requirements`.
    own_requirements: ClassVar[tuple[str, ...]] = ()
    #: The names of attributes that are plain values and change during training, each a `Number`.
    numbers: ClassVar[tuple[str, ...]] = ()
    #: The names of attributes that hold a tensor for each parameter.
    tensors: ClassVar[tuple[str, ...]] = ()

    base: Optimizer

    def __init__(self, base: Optimizer) -> None:
        name = type(self).__name__
        if isinstance(base, type) or not hasattr(base, "param_groups"):
            raise UsageError(
                f"wrapper: {name} wraps an optimizer, as in {name}(AdamW(model)), got "
                f"{describe_value(base)}"
            )
        if not self.can_wrap_averaging and hasattr(base, "eval"):
            raise UsageError(
                f"wrapper: {name} cannot wrap {type(base).__name__}, which averages its weights "
                "itself"
            )
        if not self.can_wrap_closures and "closure" in getattr(base, "requirements", ()):
            raise UsageError(
                f"wrapper: {name} cannot wrap {type(base).__name__}: both evaluate the loss again "
                "within a step"
            )
        if find_zero(self) is not None:
            own = "train_eval" if hasattr(type(self), "eval") else ""
            check_under_zero(name, (*self.own_requirements, own))
        self.__dict__ |= {"base": base, "values": {}}
        for attribute in self.tensors:
            self.__dict__[attribute] = {}
        super().__setstate__({"defaults": dict(base.defaults)})  # with empty hooks

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The param groups of `base`."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of `base`."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def requirements(self) -> tuple[str, ...]:
        """The requirements of `base` and of the wrapper."""
        return (*getattr(self.base, "requirements", ()), *self.own_requirements)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "base" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.base, name)

    def begin_update(self) -> None:
        """Prepare for an update, before any parameter changes; `release_gradients` calls it too."""

    def step_base(self, closure: Callable[[], Any] | None) -> tuple[Any, bool]:
        """Call the step of `base`.

        Returns:
            The loss, and whether the step was an update, as `lit_optim.updates` counts them.
        """
        updates = count_updates(self.base)
        before = updates.count
        loss = self.base.step(closure)
        return loss, updates.count > before

    def params(self) -> Iterator[Tensor]:
        """Yield every parameter, in the order of the groups."""
        for group in self.param_groups:
            yield from group["params"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group to `base`, and so to the wrapper."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of `base` plus the wrapper's own state."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        indices = {p: k for k, p in enumerate(self.params())}
        kept: dict[str, Any] = {name: getattr(self, name) for name in self.numbers}
        for name in self.tensors:
            kept[name] = {indices[p]: value for p, value in getattr(self, name).items()}
        state_dict = self.base.state_dict() | {self._state_key(): kept}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def _state_key(self) -> str:
        """Return the name of the class, numbered from 2 on around wrappers of the same class."""
        name, base, depth = type(self).__name__, self.base, 1
        while isinstance(base, Wrapper):
            depth += type(base).__name__ == name
            base = base.base
        return name if depth == 1 else f"{name}.{depth}"

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of the same wrapper around the same kind of optimizer.

        Raises:
            UsageError: the state dict does not come from this wrapper.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        base_state, name = dict(state_dict), self._state_key()
        if name not in base_state:
            raise UsageError(f"the saved state comes from an optimizer without the wrapper {name}")
        kept = base_state.pop(name)
        self.base.load_state_dict(base_state)
        params = list(self.params())
        for attribute in self.numbers:
            setattr(self, attribute, kept[attribute])
        for attribute in self.tensors:
            tensors: dict[Tensor, Tensor] = getattr(self, attribute)
            tensors.clear()
            for k, value in kept[attribute].items():
                tensors[params[k]] = value.to(params[k].device, copy=True)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        # `step` is an instance attribute once updates are counted
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("defaults", "step") and not name.startswith("_")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__setstate__({"defaults": dict(self.base.defaults)})

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.base!r}"


class Wrapped:
    """Builds an optimizer and wraps it: `Wrapped(AdamW, partial(Ema, decay=0.99))`.

    Args:
        make: builds an optimizer from param groups.
        wrap: wraps it.
    """

    def __init__(
        self, make: Callable[..., Optimizer], wrap: Callable[[Optimizer], Optimizer]
    ) -> None:
        self.make, self.wrap = make, wrap

    @property
    def requirements(self) -> tuple[str, ...]:
        """The requirements of the optimizer, which decide how its param groups are made."""
        return tuple(getattr(getattr(self.make, "func", self.make), "requirements", ()))

    def __call__(self, params: Any, **more: Any) -> Optimizer:
        """Build and wrap the optimizer."""
        return self.wrap(self.make(params, **more))


def none(base: AnyOptimizer) -> AnyOptimizer:
    """Return the optimizer without a wrapper."""
    return base


def unwrap(optimizer: Any) -> Any:
    """Return the optimizer inside all wrappers of this package."""
    while isinstance(optimizer, Wrapper):
        optimizer = optimizer.base
    return optimizer
