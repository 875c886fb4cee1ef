"""Lightning's fine-tuning callbacks, which unfreeze layers and add them to the optimizer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch.optim import Optimizer

from lit_optim.callbacks.added_groups import AddedGroups
from lit_optim.errors import UsageError


def is_finetuned(trainer: Trainer) -> bool:
    """Whether a callback unfreezes parameters and adds them to the optimizer as a group."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, BaseFinetuning) for callback in callbacks)


def keep_trainable(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups without frozen parameters, which `BaseFinetuning` adds when it unfreezes them.

    It takes no parameter that is in a group already, and takes the last group for its own.

    Raises:
        UsageError: nothing is left.
    """
    kept = [made for group in groups if (made := _without_frozen(group))["params"]]
    if not kept:
        raise UsageError("the model has 0 trainable parameters")
    return kept


def _without_frozen(group: dict[str, Any]) -> dict[str, Any]:
    params = list(group["params"])
    places = [i for i, p in enumerate(params) if p.requires_grad]
    kept = {"params": [params[i] for i in places]}
    if "param_names" in group:
        kept["param_names"] = [group["param_names"][i] for i in places]
    return group | kept


def adjust_added_groups(trainer: Trainer, optimizer: Optimizer) -> None:
    """Have the trainer look at groups that its callbacks add, after they have."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [c for c in callbacks if not isinstance(c, AddedGroups)]
    last = max(i for i, callback in enumerate(callbacks) if isinstance(callback, BaseFinetuning))
    callbacks.insert(last + 1, AddedGroups(optimizer))
