"""Checks before training whether a model fits its data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule

from lit_optim.errors import UsageError


def check_sizes(
    model: LightningModule, equal: tuple[str, ...] = (), at_least: tuple[str, ...] = ()
) -> None:
    """Compare sizes of a model with those of its data, where the data has them.

    Args:
        model: attached to its trainer; the sizes are in its `hparams`.
        equal: sizes that must equal those of the data.
        at_least: sizes that may be larger.

    Raises:
        UsageError: naming the key, what was given and what the data has.
    """
    data: Any = getattr(model.trainer, "datamodule", None)
    for name in (*equal, *at_least):
        own, needed = model.hparams[name], getattr(data, name, None)
        if not isinstance(needed, int) or own == needed or (name in at_least and own > needed):
            continue
        allowed = f"{needed} or more" if name in at_least else str(needed)
        raise UsageError(
            f"model.{name}={own} does not fit the data: {type(data).__name__} has {name}={needed}, "
            f"so it must be {allowed}; left out, it is taken from the data"
        )
