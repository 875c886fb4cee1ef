"""Ends a run when its starter asks for that, as a search does with a poor trial."""

from __future__ import annotations

import os
from pathlib import Path

from lit_optim.lightning_classes import Callback, LightningModule, Trainer, TrainerFn
from lit_optim.training.lengths import total_updates


class Pruning(Callback):
    """Looks after each validation for a file, and ends the training where it is.

    All processes of a run end together. What the file holds does not matter.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._is_asked = path, False
        #: Whether the training has ended before its time.
        self.has_pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        is_asked = trainer.is_global_zero and os.path.lexists(self._path)
        if trainer.world_size > 1:
            is_asked = trainer.strategy.broadcast(is_asked)
        if is_asked:
            self._is_asked = trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        planned = total_updates(trainer)
        self.has_pruned = self._is_asked and (planned is None or trainer.global_step < planned)
