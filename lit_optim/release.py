"""Gradient release: each parameter is updated once its gradient is ready, which is then freed.

    release_gradients(model, optimizer)

The training loop stays as it is. `loss.backward()` updates the parameters, and `optimizer.step()`
ends the update. There is never more than a few gradients in memory at a time, and the weights are,
bit for bit, those of training without it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from threading import RLock
from typing import Annotated, Any, NoReturn, TypeVar
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from lit_optim.errors import UsageError, describe_value
from lit_optim.hyperparameters import check
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.torch_own import TorchOptimizer
from lit_optim.updates import WRAPPED_ATTRIBUTES, count_updates, innermost_optimizer
from lit_optim.wrappers import Wrapper

#: Where an optimizer keeps its release.
ATTRIBUTE = "_release"

T = TypeVar("T")


def release_gradients(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    clip_value: Annotated[float, "> 0"] | None = None,
) -> Release:
    """Let the backward pass update each parameter as soon as its gradient is ready, and free it.

        release_gradients(model, optimizer)
        for batch in loader:
            model(batch).backward()  # updates the parameters
            optimizer.step()  # ends the update
            scheduler.step()

    The weights are the same to the bit as without, and so are schedules, counts of updates and
    states. Matrices that a matrix optimizer updates together, in one stack, wait for each other.
    Each `backward` needs its own `step`, with or without a closure around it. `p.grad` is None
    after the backward pass, so nothing can look at all gradients: clipping by their norm,
    accumulation and loss scaling are impossible, and `clip_grad_norm_` would do nothing. A weight
    that the loss also depends on without its gradient (`w.detach()`) may be needed after its
    update; torch then raises an error about an inplace operation.

    Args:
        model: whose parameters they are; under FSDP2 after `fully_shard`.
        optimizer: of lit_optim, or an Ema or Lookahead around one.
        clip_value: clips each coordinate of the gradients to this size, as
            `torch.nn.utils.clip_grad_value_` does.

    Returns:
        A handle: its `remove()` ends the release. It need not be kept.

    Raises:
        UsageError: the optimizer needs all gradients at a time, the model's gradients are not
            final when they are ready, as in DistributedDataParallel, a gradient is there already,
            or a second gradient of a parameter comes before `step`.
    """
    check(release_gradients, {"clip_value": clip_value})
    check_release(model, optimizer)
    inner = innermost_optimizer(optimizer)
    if isinstance(before := vars(inner).get(ATTRIBUTE), Release):
        before.remove()
    wrappers = [one for one in _wrappers(optimizer) if isinstance(one, Wrapper)]
    release = vars(inner)[ATTRIBUTE] = Release(model, inner, wrappers, clip_value)
    return release


def check_release(model: nn.Module, optimizer: Optimizer) -> None:
    """Refuse what cannot be trained with gradients that are released.

    Raises:
        UsageError: says why, and what can be had instead.
    """
    inner = innermost_optimizer(optimizer)
    for name, value, kind in (("model", model, nn.Module), ("optimizer", inner, Optimizer)):
        if not isinstance(value, kind):
            raise UsageError(
                f"release_gradients(model, optimizer): {name} is {describe_value(value)}"
            )
    for module in model.modules():
        if type(module).__name__ in ("DistributedDataParallel", "FullyShardedDataParallel"):
            _refuse_averaging(module)
    for wrapper in _wrappers(optimizer):
        if "closure" in getattr(wrapper, "requirements", ()):
            raise UsageError(
                f"{type(wrapper).__name__} evaluates the loss again within a step, so its gradients"
                " cannot be released; AdamW, Muon and most others can"
            )
        if getattr(wrapper, "scaler", None) is not None:
            _refuse_scaler()
    name = type(inner).__name__
    if not isinstance(inner, OptimizerBase | TorchOptimizer):
        raise UsageError(
            f"only the optimizers of lit_optim can release gradients, and {name} is from "
            f"{type(inner).__module__.split('.')[0]}; use lit_optim.AdamW or another one"
        )
    if inner.needs_all_gradients:
        raise UsageError(
            f"{name} computes each update from all gradients together, so none can be released "
            "before the others; AdamW, Muon and most others update each parameter by itself"
        )
    own, params = set(model.parameters()), list(_params(inner))
    if not any(p in own for p in params):
        raise UsageError("release_gradients: the optimizer has none of the model's parameters")
    names = {id(p): name for name, p in model.named_parameters()}
    for p in params:
        if p.grad is not None:
            raise UsageError(
                f"parameter {names.get(id(p), '?')} has a gradient already: call release_gradients "
                "before the backward pass, or after zero_grad()"
            )


class Release:
    """Updates the parameters of an optimizer in the backward pass; see `release_gradients`.

    Args:
        model: for the names of parameters.
        optimizer: the innermost one; it keeps this object alive.
        wrappers: around it.
        clip_value: the largest size of a coordinate of a gradient; None: any.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        wrappers: Sequence[Wrapper] = (),
        clip_value: float | None = None,
    ) -> None:
        self.clip_value = clip_value
        self._optimizer, self._model = ref(optimizer), ref(model)
        self._wrappers = list(map(ref, wrappers))
        self._updates = count_updates(optimizer)
        self._lock = RLock()  # the backward pass has a thread for each device
        #: The hooks of parameters, by id.
        self._handles: dict[int, Any] = {}
        #: For each parameter, by id: the index of its group, and those that are updated with it.
        self._stacks: dict[int, tuple[int, list[Tensor]]] = {}
        #: The ids of the parameters whose gradients of this update were ready.
        self._ready: set[int] = set()
        self._has_begun = False
        self._other_scalers = WeakSet(filter(_has_updated, _existing(GradScaler)))
        self._attach(optimizer)
        self._step_hook = optimizer.register_step_post_hook(_make_step_hook(ref(self)))

    def remove(self) -> None:
        """Let `step` update all parameters again, from the next backward pass on."""
        for handle in self._handles.values():
            handle.remove()
        self._step_hook.remove()
        self._handles.clear()
        optimizer = self._optimizer()
        if optimizer is not None and vars(optimizer).get(ATTRIBUTE) is self:
            del vars(optimizer)[ATTRIBUTE]

    def _attach(self, optimizer: Optimizer) -> None:
        """Add hooks to trainable parameters that have none: also those of groups added later."""
        self._stacks.clear()
        for index, group in enumerate(optimizer.param_groups):
            stacks = [[p] for p in group["params"]]
            if isinstance(optimizer, OptimizerBase):
                stacks = optimizer.owner(group).stacks(group)
            for stack in stacks:
                self._stacks |= {id(p): (index, stack) for p in stack}
        hook = _make_hook(ref(self))
        for p in _params(optimizer):
            if p.requires_grad and id(p) not in self._handles:
                register: Any = p.register_post_accumulate_grad_hook
                self._handles[id(p)] = register(hook)

    @torch.no_grad()
    def take(self, p: Tensor) -> None:
        """Update p, or the stack that it is in once the last of its gradients is ready.

        Raises:
            UsageError: it is the second gradient of p since the last step.
        """
        optimizer = self._optimizer()
        if p.grad is None or optimizer is None:
            return
        with self._lock:
            if id(p) in self._ready:
                self._refuse_second(p)
            if not self._ready:
                self._begin(p)
            self._ready.add(id(p))
            if self.clip_value is not None:
                nn.utils.clip_grad_value_(p, self.clip_value)
            index, stack = self._stacks[id(p)]
            if any(q.grad is None and q.requires_grad for q in stack):
                return
            params = [q for q in stack if q.grad is not None]
            self._updates.note_release(params)
            optimizer.step_parameters(optimizer.param_groups[index], params)  # type: ignore[attr-defined]
            for q in params:
                q.grad = None
                # a backward pass that would read the old values fails, instead of reading the new
                torch.autograd.graph.increment_version(q)

    def _begin(self, p: Tensor) -> None:
        """Begin an update, whose first gradient is that of p."""
        if not self._has_begun:
            self._reject_others(p)
        self._has_begun = True
        for wrapper in self._wrappers:
            if (alive := wrapper()) is not None:
                alive.begin_update()

    def end(self) -> None:
        """End the update: `step` has updated what the backward pass had to leave."""
        optimizer = self._optimizer()
        if optimizer is None:
            return
        params = list(_params(optimizer))
        for p in params:  # also those that have no hook yet
            p.grad = None
        self._ready.clear()
        if any(p.requires_grad and id(p) not in self._handles for p in params):
            self._attach(optimizer)

    def _reject_others(self, p: Tensor) -> None:
        """Refuse what would change the gradients later, and was made after the release or unused.

        A loss scaler that had been through updates before the release is that of another model: a
        gradient does not tell whether its loss was scaled.

        Raises:
            UsageError: DistributedDataParallel averages p, or a loss scaler is in use.
        """
        if self._find_other(p) is None:
            return
        gc.collect()  # what nothing uses any more, such as a trainer of before
        found = self._find_other(p)
        if isinstance(found, nn.Module):
            _refuse_averaging(found)
        if found is not None:
            _refuse_scaler()

    def _find_other(self, p: Tensor) -> nn.Module | GradScaler | None:
        for module in _existing(nn.parallel.DistributedDataParallel):
            if any(p is q for q in module.parameters()):
                return module
        for scaler in _existing(GradScaler):
            if _scales(scaler) and scaler not in self._other_scalers:
                return scaler
        return None

    def _refuse_second(self, p: Tensor) -> None:
        model = self._model()
        names = {} if model is None else {id(q): name for name, q in model.named_parameters()}
        raise UsageError(
            f"parameter {names.get(id(p), '?')} got a second gradient before step(), and the first "
            "was released: gradients cannot be accumulated; call step() after each backward() of a "
            "larger batch, also after one that failed, or leave out release_gradients"
        )


def _refuse_averaging(module: nn.Module) -> NoReturn:
    raise UsageError(
        f"{type(module).__name__} averages gradients after they would be released; with torch's "
        "fully_shard(model) (trainer=fsdp) they are averaged before"
    )


def _existing(kind: type[T]) -> list[T]:
    return [x for x in gc.get_objects() if issubclass(type(x), kind)]


def _scales(scaler: GradScaler) -> bool:
    """Whether it has scaled a loss, at any time."""
    return scaler.is_enabled() and scaler._scale is not None


def _has_updated(scaler: GradScaler) -> bool:
    """Whether it has been through an update: its scale or its count of steps has moved."""
    now = (scaler.get_scale(), scaler._get_growth_tracker())
    return _scales(scaler) and now != (scaler._init_scale, scaler._init_growth_tracker)


def _refuse_scaler() -> NoReturn:
    raise UsageError(
        "a loss scaler looks at all gradients before the update, so they cannot be released; "
        "bfloat16 needs no scaler"
    )


def _make_hook(release: ref[Release]) -> Callable[[Tensor], None]:
    def take(p: Tensor) -> None:
        if (alive := release()) is not None:
            alive.take(p)

    return take


def _make_step_hook(release: ref[Release]) -> Callable[..., None]:
    def end(*_: Any) -> None:
        if (alive := release()) is not None:
            alive.end()

    return end


def _wrappers(optimizer: Optimizer) -> Iterator[Optimizer]:
    """The optimizer and those that it wraps."""
    innermost = innermost_optimizer(optimizer)
    while optimizer is not innermost:
        yield optimizer
        inner = (getattr(optimizer, name, None) for name in WRAPPED_ATTRIBUTES)
        optimizer = next(x for x in inner if isinstance(x, Optimizer))
    yield innermost


def _params(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
