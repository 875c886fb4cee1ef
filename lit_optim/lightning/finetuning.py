"""Lightning's fine-tuning callbacks, which unfreeze layers and add them to the optimizer."""

from __future__ import annotations

from typing import Any

from lit_optim.errors import UsageError
from lit_optim.lightning_classes import Callback, Trainer, is_a


def has_finetuning(trainer: Trainer) -> bool:
    """Whether a callback unfreezes parameters and adds them to the optimizer as a group."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(is_a(callback, "callbacks.BaseFinetuning") for callback in callbacks)


def remove_frozen(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups without frozen parameters, which `BaseFinetuning` adds as it unfreezes.

    `BaseFinetuning` skips parameters that are in a group already, and takes the last group for its
    own. Groups that have none left are left out, but for one of hidden matrices if all of these are
    frozen: optimizers for hidden matrices need such a group, which has the lr of those that come.

    Raises:
        UsageError: all parameters are frozen.
    """
    kept = [_without_frozen(group) for group in groups]
    if not any(group["params"] for group in kept):
        raise UsageError("the model has no trainable parameters")
    hidden = [group for group in kept if group.get("role") == "hidden"]
    expected = [] if any(group["params"] for group in hidden) else hidden[:1]
    return [group for group in kept if group["params"] or any(group is one for one in expected)]


def _without_frozen(group: dict[str, Any]) -> dict[str, Any]:
    params = list(group["params"])
    places = [i for i, p in enumerate(params) if p.requires_grad]
    kept = {"params": [params[i] for i in places]}
    if "param_names" in group:
        kept["param_names"] = [group["param_names"][i] for i in places]
    return group | kept
