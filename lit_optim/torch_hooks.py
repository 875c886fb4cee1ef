"""torch's hooks around steps and state dicts, for a class that does more than torch's methods."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

#: torch's own names for the hooks.
BEFORE, AFTER = "_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks"
BEFORE_SAVING, AFTER_SAVING = "_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks"


def run_load_pre_hooks(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Call the hooks that may change or replace a state dict; the caller's is not changed."""
    state_dict = state_dict.copy()
    for hook in getattr(optimizer, BEFORE).values():
        changed = hook(optimizer, state_dict)
        state_dict = state_dict if changed is None else changed
    return state_dict


def run_load_post_hooks(optimizer: Optimizer) -> None:
    """Call the hooks that expect a loaded optimizer."""
    for hook in getattr(optimizer, AFTER).values():
        hook(optimizer)


def run_save_pre_hooks(optimizer: Optimizer) -> None:
    """Call the hooks that come before a state dict is made."""
    for hook in getattr(optimizer, BEFORE_SAVING).values():
        hook(optimizer)


def run_save_post_hooks(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Call the hooks that may change or replace a state dict."""
    for hook in getattr(optimizer, AFTER_SAVING).values():
        changed = hook(optimizer, state_dict)
        state_dict = state_dict if changed is None else changed
    return state_dict


@contextmanager
def without_hooks(optimizer: Optimizer) -> Iterator[None]:
    """Leave out the hooks, while torch's method is called."""
    names = (BEFORE, AFTER, BEFORE_SAVING, AFTER_SAVING)
    kept = {name: getattr(optimizer, name) for name in names}
    vars(optimizer).update({name: OrderedDict() for name in kept})
    try:
        yield
    finally:
        vars(optimizer).update(kept)


def with_step_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Have a step call torch's hooks, as torch has it.

    torch also opens a range of its profiler around each step. That takes longer than the hooks,
    and is left out where nothing is profiled. torch.compile leaves the step as it is: the rules are
    compiled already, and what is around them would be compiled anew for each group and shape.
    """
    profiled = Optimizer.profile_hook_step(step)

    @wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return uncompiled(*args, **kwargs)
        if torch._C._autograd._profiler_enabled():
            return profiled(*args, **kwargs)
        optimizer = args[0]
        before = (
            *_global_optimizer_pre_hooks.values(),
            *optimizer._optimizer_step_pre_hooks.values(),
        )
        for hook in before:
            changed = hook(optimizer, args, kwargs)
            if changed is None:
                continue
            if not (isinstance(changed, tuple) and len(changed) == 2):
                raise RuntimeError(
                    f"{step} must return None or a tuple of (new_args, new_kwargs), but got "
                    f"{changed}."
                )
            args, kwargs = changed
        result = step(*args, **kwargs)
        optimizer._optimizer_step_code()  # where Python's tracers look for it
        after = (
            *optimizer._optimizer_step_post_hooks.values(),
            *_global_optimizer_post_hooks.values(),
        )
        for hook in after:
            hook(optimizer, args, kwargs)
        return result

    uncompiled = _disable_dynamo(call)  # torch.compiler.disable would load the compiler now
    return call
