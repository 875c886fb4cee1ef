"""DDP reduces the gradients of the trained parameters, also after others were (un)frozen."""

from __future__ import annotations

import gc
from typing import Any

from lit_optim.lightning_classes import LightningModule, Trainer
from lit_optim.training.overrides import FitCallback


class RewrapDDP(FitCallback):
    """Wraps the module in DDP again after parameters were frozen or unfrozen.

    DDP reads `requires_grad` once. It waits forever for the gradient of a parameter that is frozen
    later (by a rule in `configure_optimizers`, in `on_fit_start`), and never reduces the gradient
    of one that is unfrozen later (by a fine-tuning callback), so that the ranks drift apart. All
    ranks wrap again at the same batch.

    Args:
        module: the model, just after DDP has wrapped it.
    """

    def __init__(self, module: LightningModule) -> None:
        trainable = _trainable(module)
        #: Which parameters were trainable when DDP wrapped them; None if that is unknown.
        self._at_wrapping = trainable if all(trainable) else None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = _trainable(pl_module)
        if now != self._at_wrapping:
            _wrap_again(trainer.strategy)
            self._at_wrapping = now


def _trainable(module: LightningModule) -> list[bool]:
    return [p.requires_grad for p in module.parameters()]


def _wrap_again(strategy: Any) -> None:
    strategy.model = strategy.lightning_module
    gc.collect()  # the reducer of the old wrapper removes its hooks from the parameters
    strategy.configure_ddp()
