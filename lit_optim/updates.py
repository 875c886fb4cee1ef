"""How many updates an optimizer has made: the one place that knows.

An update is a call of `step` that had a gradient to work with. That is looked at where the
optimizer itself looks: right before its `step`, after the hooks of others, or after the closure
that it calls. What it leaves behind does not matter: many optimizers, hooks and loops clear the
gradients at once. A step without any gradient (a loss of None, gradients that somebody has
discarded, an overflow that a loss scaler has found) is no update, unless the optimizer steps in the
backward pass and has consumed the gradients there. docs/updates.md has the table.

The schedules, the wrappers, the callbacks and the logs all ask here. An optimizer has one counter,
however it is wrapped, and the counter keeps neither the optimizer nor its parameters alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from types import MethodType
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.optim import Optimizer

#: Where a wrapper keeps what it is around: ours, and Lightning's, Fabric's and accelerate's.
WITHIN = ("base", "optimizer")
#: Integers as wide as a number, to compare bits.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Listener(Protocol):
    """What is told of each update; kept by a weak reference only."""

    def before_update(self, updates: Updates) -> None:
        """The gradients are those of the update; not called for one within the backward pass."""

    def after_update(self, updates: Updates) -> None:
        """The parameters have changed, and `updates.count` has counted it."""


class Updates:
    """Counts the updates of one optimizer from now on; made by `count_updates`.

    Args:
        optimizer: the innermost one. Its `step` is wrapped, as torch's schedulers do, and where
            it has hooks they are used too: somebody may replace `step` once more.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.count = 0
        #: calls of `step`, whether or not they were updates
        self.calls = 0
        self._optimizer = ref(optimizer)
        self._listeners: list[ref[Any]] = []
        self._open = False  # whether a call of `step` is under way
        self._by_hook = False  # whether the hooks alone have seen it begin
        self._has_closure = False
        self._had_gradient = False
        self._announced = False
        self._sees_gradients = False  # whether it ever had one, as most do
        self._backward: _Backward | None = None
        self._pre_hook: Any = None
        if hasattr(optimizer, "_optimizer_step_pre_hooks"):
            self._pre_hook = optimizer.register_step_pre_hook(self._before_hook)
            optimizer.register_step_post_hook(self._after_hook)
        _wrap_step(optimizer, self)
        self._watch_backward()

    def listen(self, listener: Listener, first: bool = False) -> None:
        """Tell `listener` of each update from now on, as long as it lives.

        Args:
            listener: told once, however often it asks.
            first: before those that listen already.
        """
        if all(one() is not listener for one in self._listeners):
            self._listeners.insert(0 if first else len(self._listeners), ref(listener))

    def settle(self) -> None:
        """Count an update that was made in the backward pass, if `step` was not called for it."""
        if self._open or self._sees_gradients:
            return
        self._watch_backward()
        if self._backward is not None and self._backward.has_updated():
            self._count()

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """A call of `step` begins.

        Returns:
            its arguments, in which a closure is watched.
        """
        self.calls += 1
        self._open, self._announced, self._has_closure = True, False, False
        optimizer = self._optimizer()
        if self._pre_hook is not None and optimizer is not None:
            hooks: Any = optimizer._optimizer_step_pre_hooks
            if self._pre_hook.id in hooks:  # to look after all others
                hooks.move_to_end(self._pre_hook.id)
        place = next((k for k, value in enumerate(args) if _is_closure(value)), None)
        if place is not None:
            args = (*args[:place], self._watched(args[place]), *args[place + 1 :])
        elif callable(kwargs.get("closure")):
            kwargs = kwargs | {"closure": self._watched(kwargs["closure"])}
        self._had_gradient = self._look()
        if self._pre_hook is None and not self._has_closure:
            self._announce()
        return args, kwargs

    def end(self, returned: bool) -> None:
        """It has ended.

        Args:
            returned: False after an exception, when nobody knows what has been done.
        """
        self._open = self._by_hook = False
        if not returned:
            return
        if self._had_gradient:
            self._count()
        else:
            self.settle()

    @property
    def is_open(self) -> bool:
        """Whether a call of `step` is under way, so that another one is a part of it."""
        return self._open and not self._by_hook

    def _before_hook(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        changed = None
        if not self.is_open:
            self._by_hook = True
            changed = self.begin(args, kwargs)
        if not self._has_closure:
            self._had_gradient = self._look()
            self._announce()
        return changed

    def _after_hook(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._open and self._by_hook:
            self.end(True)

    def _watched(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        self._has_closure, called = True, False

        @wraps(closure, updated=())
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal called
            result = closure(*args, **kwargs)
            # what was there before the first call is of the update before
            self._had_gradient = self._look() or (called and self._had_gradient)
            called = True
            self._announce()
            return result

        watched._is_watched = True  # type: ignore[attr-defined]
        return watched

    def _look(self) -> bool:
        """Whether there is a gradient that the optimizer is going to use."""
        optimizer = self._optimizer()
        if optimizer is None or all(p.grad is None for p in _params(optimizer)):
            return False
        # a fused optimizer is told by the loss scaler and skips the step itself
        overflow = getattr(optimizer, "found_inf", None)
        return overflow is None or not bool(overflow)

    def _announce(self) -> None:
        if self._had_gradient and not self._announced:
            self._announced = True
            for listener in self._told():
                listener.before_update(self)

    def _count(self) -> None:
        self.count += 1
        if self._had_gradient and not self._sees_gradients:
            self._sees_gradients = True
            if self._backward is not None:
                self._backward.remove()
                self._backward = None
        for listener in self._told():
            listener.after_update(self)

    def _told(self) -> Iterator[Listener]:
        for one in list(self._listeners):
            listener = one()
            if listener is None:
                self._listeners.remove(one)
            else:
                yield listener

    def _watch_backward(self) -> None:
        """Where parameters have hooks of the backward pass, one of them may be the optimizer's."""
        optimizer = self._optimizer()
        if self._backward is None and optimizer is not None:
            params = list(_params(optimizer))
            if any(map(_has_hooks, params)):
                self._backward = _Backward(params)


class _Backward:
    """Notices whether gradients are consumed in the backward pass, as LOMO and its like do."""

    def __init__(self, params: list[Tensor]) -> None:
        self._params = [ref(p) for p in params]
        self._reached = self._consumed = False
        # after the optimizer's own, which was there before
        self._handles = [
            p.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]
            for p in params
            if p.requires_grad and p.is_leaf
        ]
        self._bits = self._fingerprint()

    def _note(self, p: Tensor) -> None:
        self._reached = True
        self._consumed = self._consumed or p.grad is None

    def has_updated(self) -> bool:
        """Whether the parameters were updated since the last time; then it begins anew.

        A hook that comes before the gradient is there updates when the next one comes, so that
        only the parameters themselves tell.
        """
        if not self._reached:
            return False
        bits = self._fingerprint()
        updated, self._bits = self._consumed or bits != self._bits, bits
        self._reached = self._consumed = False
        return updated

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _fingerprint(self) -> list[int]:
        sums = []
        for p in (one() for one in self._params):
            if p is None or p.is_meta or type(p.data) is not Tensor or p.layout != torch.strided:
                continue
            plain = torch.view_as_real(p) if p.is_complex() else p.detach()
            sums.append(plain.contiguous().view(BITS[plain.element_size()]).sum())
        return [int(one) for one in sums]


#: One counter for each optimizer that lives.
_COUNTERS: WeakKeyDictionary[Optimizer, Updates] = WeakKeyDictionary()


def count_updates(optimizer: Optimizer) -> Updates:
    """The counter of an optimizer, which counts from the first time that it is asked for.

    Args:
        optimizer: or a wrapper around it: ours, Lightning's, Fabric's, accelerate's. All of them
            share the counter of the innermost one.
    """
    innermost = innermost_optimizer(optimizer)
    if innermost not in _COUNTERS:
        _COUNTERS[innermost] = Updates(innermost)
    return _COUNTERS[innermost]


def innermost_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer within all wrappers."""
    seen: list[Optimizer] = []
    while all(optimizer is not one for one in seen):
        seen.append(optimizer)
        inner = (getattr(optimizer, name, None) for name in WITHIN)
        optimizer = next((one for one in inner if isinstance(one, Optimizer)), optimizer)
    return optimizer


def _wrap_step(optimizer: Optimizer, updates: Updates) -> None:
    """Have the calls of `step` counted; without a reference from the optimizer to itself."""
    step = optimizer.step
    is_method = isinstance(step, MethodType) and step.__self__ is optimizer
    function: Callable[..., Any] = step.__func__ if is_method else step  # type: ignore[attr-defined]
    of = ref(optimizer)

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        target = of()
        target._opt_called = True  # type: ignore[union-attr]  # torch's schedulers ask for it
        call = function.__get__(target, type(target)) if is_method else function
        if updates.is_open:
            return call(*args, **kwargs)
        args, kwargs = updates.begin(args, kwargs)
        returned = False
        try:
            result = call(*args, **kwargs)
            returned = True
        finally:
            updates.end(returned)
        return result

    counted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # torch's need not do it again
    optimizer.step = counted  # type: ignore[method-assign]


def _params(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _is_closure(value: Any) -> bool:
    """An argument that is called; the optimizer itself, which hooks get, is none."""
    watched = getattr(value, "_is_watched", False)
    return callable(value) and not isinstance(value, Optimizer | Tensor) and not watched


def _has_hooks(p: Tensor) -> bool:
    return any(getattr(p, f"_{kind}_hooks", None) for kind in ("backward", "post_accumulate_grad"))
