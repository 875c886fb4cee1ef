"""DDP reduces the gradients of what is trained, also where that has changed since it was made."""

from __future__ import annotations

import gc
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy


class FollowFrozen(Callback):
    """Makes the DDP wrapper anew where parameters were frozen or unfrozen since it was made.

    DDP looks at `requires_grad` once. A parameter that is frozen later (by a rule in
    `configure_optimizers`, in `on_fit_start`) never gets the gradient that DDP waits for; the
    gradient of one that is unfrozen later (by a fine-tuning callback) is never reduced, so that the
    ranks drift apart. All ranks come to the same conclusion at the same batch.

    Args:
        module: the model.
    """

    def __init__(self, module: LightningModule) -> None:
        trainable = _trainable(module)
        #: as it was when DDP was made; None where that is not known
        self._at_wrapping = trainable if all(trainable) else None

    def on_train_batch_start(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = _trainable(pl_module)
        if now != self._at_wrapping:
            _wrap_again(trainer.strategy)
            self._at_wrapping = now


def follow_frozen(trainer: Trainer, module: LightningModule) -> None:
    """Have the trainer look after its DDP wrapper, if it has one; called right after wrapping."""
    if not isinstance(trainer.strategy, DDPStrategy):
        return
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [c for c in callbacks if not isinstance(c, FollowFrozen)]
    callbacks.append(FollowFrozen(module))


def _trainable(module: LightningModule) -> list[bool]:
    return [p.requires_grad for p in module.parameters()]


def _wrap_again(strategy: Any) -> None:
    strategy.model = strategy.lightning_module
    gc.collect()  # the reducer of the old wrapper takes its hooks off the parameters
    strategy.configure_ddp()
