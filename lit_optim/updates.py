"""Counts the updates of an optimizer, in one place for schedules, wrappers, callbacks and logs.

An update is a call of `step` with at least one gradient. The counter looks for gradients where the
optimizer does: right before its `step`, after all other hooks, or after the closure that it calls.
Whether gradients are left afterwards does not matter, since many optimizers, hooks and loops clear
them at once. A step without any gradient (a loss of None, an overflow that a loss scaler found) is
not an update, unless the optimizer has used the gradients in the backward pass. Ours say that, by
`note_release` (gradient release); of others it is found out. docs/updates.md has the table.

An optimizer has one counter, however it is wrapped. The counter keeps neither the optimizer nor its
parameters alive. To count, it replaces the `step` of the optimizer instance and registers hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from types import MethodType
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

from torch import Tensor
from torch.optim import Optimizer

from lit_optim.backward_watcher import BackwardWatcher

#: The attributes with the wrapped optimizer: of our wrappers, and of Lightning's, Fabric's and
#: accelerate's.
WRAPPED_ATTRIBUTES = ("base", "optimizer")


class Listener(Protocol):
    """An object that is notified of each update; it is held by a weak reference only.

    It may have a method `before_release(updates, params)`, called before gradients that are not
    there together are used: all those of an update, one or a few at a time, after `before_update`.
    """

    def before_update(self, updates: Updates) -> None:
        """Called when the gradients of the update are ready; not for one in the backward pass.

        If gradients are released, when the first of them is ready, before parameters change.
        """

    def after_update(self, updates: Updates) -> None:
        """Called when the parameters have changed and `updates.count` includes the update."""


class Follower(Protocol):
    """An object that follows the updates; it is held by a weak reference only."""

    def catch_up(self) -> None:
        """Called when a call of `step` begins, before its closure."""


class Updates:
    """Counts the updates of one optimizer from now on; `count_updates` creates it.

    Args:
        optimizer: the innermost optimizer. Its `step` is wrapped, as torch's schedulers do. If it
            has hooks, they are used too, because other code may replace `step` again.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.count = 0
        #: the number of calls of `step`, whether or not they were updates
        self.step_calls = 0
        self._optimizer = ref(optimizer)
        self._listeners: list[ref[Any]] = []
        self._followers: list[ref[Any]] = []
        #: what the schedule that set the lrs last keeps here; see `ScheduledLR`
        self.last_schedule: Any = None
        self._is_stepping = False  # whether a call of `step` is in progress
        self._by_hook = False  # whether only the hooks have seen it begin
        self._has_closure = False
        self._had_gradient = False
        self._announced = False
        self._sees_gradients = False  # whether there ever was a gradient, as for most optimizers
        self._released = False  # whether gradients of the next update have been used already
        #: whether `step` was called for single parameters since the last update
        self.steps_by_parameter = False
        self._backward: BackwardWatcher | None = None
        self._pre_hook: Any = None
        if hasattr(optimizer, "_optimizer_step_pre_hooks"):
            self._pre_hook = optimizer.register_step_pre_hook(self._before_hook)
            optimizer.register_step_post_hook(self._after_hook)
        _wrap_step(optimizer, self)
        self._watch_backward()

    def add_listener(self, listener: Listener, first: bool = False) -> None:
        """Notify `listener` of each update from now on, as long as it is alive.

        Args:
            listener: notified once per update, however often it was added.
            first: whether to notify it before the present listeners.
        """
        self._listeners = [one for one in self._listeners if one() is not None]
        if all(reference() is not listener for reference in self._listeners):
            self._listeners.insert(0 if first else len(self._listeners), ref(listener))

    def add_follower(self, follower: Follower) -> None:
        """Have `follower` catch up when a call of `step` begins, as long as it is alive."""
        self._followers = [*(one for one in self._followers if one() is not None), ref(follower)]

    def note_release(self, params: Iterable[Tensor] = ()) -> None:
        """Note that gradients are used now, in the backward pass: the update begins.

        The update ends with the call of `step` around the backward pass, or the next one.

        Args:
            params: those whose gradients are used; none of them changes before this returns.
        """
        if not self._released:
            self._stop_watching()
            if not self._is_stepping:
                self._catch_up()
            self._released = self._had_gradient = True
            self._announced = False
            self._announce()
        self._announce_released(list(params))

    def count_backward_update(self) -> None:
        """Count an update that happened in the backward pass, if `step` was not called for it."""
        if self._is_stepping or self._sees_gradients:
            return
        self._watch_backward()
        updated = self._backward is not None and self._backward.has_updated()
        updated, self.steps_by_parameter = updated or self.steps_by_parameter, False
        if updated:
            self._count()

    def is_parameter_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call of `step` is for a single parameter, given to it, in the backward pass.

        All of them until the next step of the loop are one update.
        """
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                self.steps_by_parameter = True
                return True
        return False

    def begin_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Note that a call of `step` begins.

        Returns:
            The arguments of the call, in which a closure is wrapped to notice its gradients.
        """
        self._catch_up()
        self.step_calls += 1
        self._is_stepping, self._announced, self._has_closure = True, self._released, False
        optimizer = self._optimizer()
        if self._pre_hook is not None and optimizer is not None:
            hooks: Any = optimizer._optimizer_step_pre_hooks
            if self._pre_hook.id in hooks:  # so that it runs after all other hooks
                hooks.move_to_end(self._pre_hook.id)
        positions = [k for k, value in enumerate(args) if _is_closure(value)]
        if positions:
            position = positions[0]
            args = (*args[:position], self._watch_closure(args[position]), *args[position + 1 :])
        elif callable(closure := kwargs.get("closure")):
            kwargs = kwargs | {"closure": self._watch_closure(closure)}
        self._had_gradient = self._has_usable_gradient()
        if self._pre_hook is None and not self._has_closure:
            self._announce()
        return args, kwargs

    def end_step(self, returned: bool) -> None:
        """Note that the call of `step` has ended.

        Args:
            returned: False after an exception, when it is unknown what was done.
        """
        self._is_stepping = self._by_hook = self._released = False
        if not returned:
            return
        if self._had_gradient:
            self._count()
        else:
            self.count_backward_update()

    @property
    def is_stepping(self) -> bool:
        """Whether a call of `step` is in progress, so that another call is a part of it."""
        return self._is_stepping and not self._by_hook

    @property
    def is_releasing(self) -> bool:
        """Whether gradients of the present update are used one by one; see `note_release`."""
        return self._released

    def _before_hook(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        changed = None
        if self.is_parameter_step(args, kwargs):
            return changed
        if not self.is_stepping:
            self._by_hook = True
            changed = self.begin_step(args, kwargs)
        if not self._has_closure:
            self._had_gradient = self._has_usable_gradient()
            self._announce()
        return changed

    def _after_hook(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._is_stepping and self._by_hook:
            self.end_step(True)

    def _watch_closure(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        self._has_closure = True
        return _WatchedClosure(self, closure)

    def note_closure(self, was_called: bool) -> None:
        """Note that a closure has returned; `was_called`: not for the first time in this step."""
        # gradients from before the first call belong to the previous update
        self._had_gradient = self._has_usable_gradient() or (was_called and self._had_gradient)
        self._announce()

    def _has_usable_gradient(self) -> bool:
        """Whether there is a gradient that the optimizer will use, or has used for this update."""
        optimizer = self._optimizer()
        if self._released:
            return True
        if optimizer is None or not _has_gradient(optimizer):
            return False
        if hasattr(optimizer, "is_initializing") and optimizer.is_initializing():
            return False
        # the loss scaler sets found_inf of a fused optimizer, which then skips the step itself
        overflow = getattr(optimizer, "found_inf", None)
        return overflow is None or not bool(overflow)

    def _announce(self) -> None:
        if self._had_gradient and not self._announced:
            self._announced = True
            for reference in tuple(self._listeners):
                if (listener := reference()) is not None:
                    listener.before_update(self)
        elif self._released and self._is_stepping and (optimizer := self._optimizer()) is not None:
            self._announce_released([p for p in _params(optimizer) if p.grad is not None])

    def _announce_released(self, params: list[Tensor]) -> None:
        for reference in tuple(self._listeners) if params else ():
            before_release = getattr(reference(), "before_release", None)
            if before_release is not None:
                before_release(self, params)

    def _catch_up(self) -> None:
        followers = [one for reference in self._followers if (one := reference()) is not None]
        if len(followers) < len(self._followers):
            self._followers = list(map(ref, followers))
            if not followers and self.last_schedule is not None:
                self.last_schedule.warn_if_lost(self, self._optimizer())
        for follower in followers:
            follower.catch_up()

    def _count(self) -> None:
        self.count += 1
        if self._had_gradient:
            self._stop_watching()
        for reference in tuple(self._listeners):
            if (listener := reference()) is not None:
                listener.after_update(self)

    def _stop_watching(self) -> None:
        """Stop watching the backward pass: the optimizer is one that has gradients."""
        self._sees_gradients = True
        if self._backward is not None:
            self._backward.remove()
            self._backward = None

    def _watch_backward(self) -> None:
        """Watch the backward pass if parameters have hooks, one of which may be the optimizer's."""
        optimizer = self._optimizer()
        if self._backward is None and optimizer is not None:
            params = list(_params(optimizer))
            if any(map(_has_hooks, params)):
                self._backward = BackwardWatcher(params)


class _WatchedClosure:
    """A closure that tells the counter of the updates when it returns.

    Args:
        updates: the counter.
        closure: of a call of `step`; in all else this is like it.
    """

    _is_watched = True

    def __init__(self, updates: Updates, closure: Callable[..., Any]) -> None:
        self._updates, self.__wrapped__, self._was_called = updates, closure, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.__wrapped__(*args, **kwargs)
        self._updates.note_closure(self._was_called)
        self._was_called = True
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["__wrapped__"], name)


#: The counter of each optimizer that is alive.
_COUNTERS: WeakKeyDictionary[Optimizer, Updates] = WeakKeyDictionary()


def count_updates(optimizer: Optimizer) -> Updates:
    """Return the counter of an optimizer, which counts from the first call of this function.

    Args:
        optimizer: an optimizer, or a wrapper around it: ours, Lightning's, Fabric's or
            accelerate's. They all share the counter of the innermost optimizer.
    """
    innermost = innermost_optimizer(optimizer)
    if innermost not in _COUNTERS:
        _COUNTERS[innermost] = Updates(innermost)
    if not hasattr(optimizer.step, "__func__"):
        _hide_from_schedulers(optimizer.step)
    return _COUNTERS[innermost]


def innermost_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside all wrappers, ours and those of other libraries."""
    seen: list[Optimizer] = []
    while all(optimizer is not other for other in seen):
        seen.append(optimizer)
        inner = (getattr(optimizer, name, None) for name in WRAPPED_ATTRIBUTES)
        optimizer = next((x for x in inner if isinstance(x, Optimizer)), optimizer)
    return optimizer


def _wrap_step(optimizer: Optimizer, updates: Updates) -> None:
    """Replace `step` of the instance by one that counts, without a reference cycle."""
    step = optimizer.step
    is_method = isinstance(step, MethodType) and step.__self__ is optimizer
    function: Callable[..., Any] = step.__func__ if is_method else step  # type: ignore[attr-defined]
    optimizer_ref = ref(optimizer)

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        target = optimizer_ref()
        target._opt_called = True  # type: ignore[union-attr]  # torch's schedulers check it
        call = function.__get__(target, type(target)) if is_method else function
        if updates.is_stepping:
            return call(*args, **kwargs)
        if updates.is_parameter_step(args, kwargs):
            return call(*args, **kwargs)
        args, kwargs = updates.begin_step(args, kwargs)
        returned = False
        try:
            result = call(*args, **kwargs)
            returned = True
        finally:
            updates.end_step(returned)
        return result

    _hide_from_schedulers(counted)
    optimizer.step = counted  # type: ignore[method-assign]


def _hide_from_schedulers(step: Any) -> None:
    """Have torch's schedulers leave a step as it is: they take each for a method."""
    step._wrapped_by_lr_sched = True


def _params(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _has_gradient(optimizer: Optimizer) -> bool:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                return True
    return False


def _is_closure(value: Any) -> bool:
    """Whether an argument is a closure; the optimizer, which hooks get, is not."""
    watched = getattr(value, "_is_watched", False)
    return callable(value) and not isinstance(value, Optimizer | Tensor) and not watched


def _has_hooks(p: Tensor) -> bool:
    return any(getattr(p, f"_{kind}_hooks", None) for kind in ("backward", "post_accumulate_grad"))
