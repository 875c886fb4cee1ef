"""torch's hooks around state dicts, for a class that does more than torch's methods."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

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
