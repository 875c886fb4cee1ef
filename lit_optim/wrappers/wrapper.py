"""Optimizers that wrap another optimizer and share its param groups and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError, describe_value
from lit_optim.imitated import Imitated
from lit_optim.sharding.saved import check_form, copy_like
from lit_optim.sharding.zero import find_zero
from lit_optim.torch_hooks import (
    run_load_post_hooks,
    run_load_pre_hooks,
    run_save_post_hooks,
    run_save_pre_hooks,
    with_step_hooks,
)
from lit_optim.updates import count_updates
from lit_optim.wrappers.states import WrapperStates

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

    #: torch's hooks of a step, which torch.compile leaves as it is.
    profile_hook_step = staticmethod(with_step_hooks)  # type: ignore[assignment]

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
        sees_all = "closure" in self.own_requirements or hasattr(type(self), "eval")
        if sees_all and find_zero(self) is not None:
            raise UsageError(
                f"wrapper: {name} looks at all parameters, but ZeroRedundancyOptimizer makes one "
                f"in each process of some of them; put it around: {name}("
                "ZeroRedundancyOptimizer(...))"
            )
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
        """The state of `base`, where the state of each parameter shows the wrapper's own too."""
        return WrapperStates(self) if self.numbers or self.tensors else self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        if not isinstance(state, WrapperStates):
            self.base.state = state

    def own_state(self, p: Tensor) -> dict[str, Any]:
        """The wrapper's own state of a parameter, by names that contain a dot.

        The plain values are in the state of each parameter; a tensor that there is not is None.
        """
        key = self._state_key()
        values: dict[str, Any] = {name: getattr(self, name) for name in self.numbers}
        values |= {name: getattr(self, name).get(p) for name in self.tensors}
        return {f"{key}.{name}": value for name, value in values.items()}

    def set_own_state(self, p: Tensor, state: Mapping[str, Any]) -> None:
        """Set what `own_state` returns; names that are not given keep their values."""
        for name, value in state.items():
            attribute = name.removeprefix(f"{self._state_key()}.")
            if attribute in self.numbers:
                setattr(self, attribute, value)
            elif value is not None:
                getattr(self, attribute)[p] = value

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
        run_save_pre_hooks(self)
        state_dict = self.base.state_dict()
        states = dict(state_dict["state"])
        for k, p in enumerate(self.params()):
            own = {name: value for name, value in self.own_state(p).items() if value is not None}
            states[k] = states.get(k, {}) | own
        return run_save_post_hooks(self, state_dict | {"state": states})

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
        state_dict = run_load_pre_hooks(self, state_dict)
        base_state, own = self._divide(check_form(type(self).__name__, state_dict))
        self.base.load_state_dict(base_state)
        for attribute in self.tensors:
            getattr(self, attribute).clear()
        for label, p, state in zip(self._labels(), self.params(), own, strict=True):
            for name, value in state.items():
                if not isinstance(value, Tensor):
                    continue
                if value.shape != p.shape:
                    raise UsageError(
                        f"the saved {name} of parameter {label} has shape {list(value.shape)} and "
                        f"not {list(p.shape)}: it belongs to a different model"
                    )
                state[name] = copy_like(value, p)
            self.set_own_state(p, state)
        run_load_post_hooks(self)

    def _labels(self) -> Iterator[str]:
        """The name or else the number in its group of each parameter, for messages."""
        for group in self.param_groups:
            count = len(group["params"])
            yield from group.get("param_names") or [f"number {i}" for i in range(count)]

    def _divide(self, state_dict: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A state dict without the wrapper's own state, and that of each parameter.

        Raises:
            UsageError: it has none.
        """
        key, names = self._state_key(), (*self.numbers, *self.tensors)
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        rest = {k: v for k, v in state_dict.items() if k != key}
        rest["state"] = states = dict(state_dict["state"])
        own: list[dict[str, Any]] = [{} for _ in ids]
        if key in state_dict:  # as earlier versions saved it, by the number of the parameter
            kept = state_dict[key]
            for k in range(len(ids)):
                own[k] = {f"{key}.{name}": kept[name] for name in self.numbers}
                tensors = {name: kept[name].get(k) for name in self.tensors}
                own[k] |= {f"{key}.{n}": x for n, x in tensors.items() if x is not None}
            return rest, own
        for k, i in enumerate(ids):
            state = dict(states.get(i, {}))
            found = {n: state.pop(n) for name in names if (n := f"{key}.{name}") in state}
            # torch's flattened state dicts have {} for what was not saved
            own[k] = {n: x for n, x in found.items() if isinstance(x, Tensor | int | float)}
            states[i] = state
            if not state:
                del states[i]
        if any(all(f"{key}.{name}" not in state for state in own) for name in self.numbers):
            raise UsageError(f"the saved state comes from an optimizer without the wrapper {key}")
        return rest, own

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
