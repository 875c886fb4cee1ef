"""Whether a model fits its data, before it is trained."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule

from lit_optim.errors import UsageError


def check_sizes(
    model: LightningModule, equal: tuple[str, ...] = (), at_least: tuple[str, ...] = ()
) -> None:
    """Hold sizes of a model against those of its data; what the data does not tell is not held.

    Args:
        model: attached to its trainer; the sizes are in its `hparams`.
        equal: those that must be what the data has.
        at_least: those that may be more.

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
