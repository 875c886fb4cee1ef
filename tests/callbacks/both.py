"""Data that is validated with what it is trained with."""

from __future__ import annotations

from tests.lightning.modules import Data


class Both(Data):
    def val_dataloader(self):
        return self.train_dataloader()
