"""A module whose training is cut off."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import nn

import lit_optim


class Net(LightningModule):
    """With dropout and batch norm: chance and buffers move with every batch."""

    monitor = ("val/loss", "min")

    def __init__(self, make, schedule, bad):
        super().__init__()
        layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3)
        self.net = nn.Sequential(*layers, nn.Linear(8, 8), nn.Linear(8, 1)).double()
        self.make, self.schedule, self.bad = make, schedule, bad
        self.seen, self.lrs = [], []

    def training_step(self, batch, batch_idx):
        place = self.trainer.current_epoch, batch_idx
        self.seen.append((place, batch[0].sum().item()))
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log("train/loss", loss)
        if self.bad.get(place) == "none":
            return None
        return loss * float("nan") if place in self.bad else loss

    def on_before_optimizer_step(self, optimizer):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make, self.schedule)
