"""A module by the conventions of lightning-hydra-template, which calls partials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Sequential):
    """Two layers and a norm."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 2))


class Module(LightningModule):
    """Made by `instantiate(cfg.model)`; `optimizer` and `scheduler` are functions."""

    def __init__(
        self, net: nn.Module, optimizer: Callable[..., Any], scheduler: Callable[..., Any] | None
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net = net
        self.lrs: list[float] = []

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.lrs.append(optimizer.param_groups[0]["lr"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.hparams["optimizer"](params=self.trainer.model.parameters())
        if self.hparams["scheduler"] is None:
            return {"optimizer": optimizer}
        scheduler = self.hparams["scheduler"](optimizer=optimizer)
        each_epoch = {"monitor": "val/loss", "interval": "epoch", "frequency": 1}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **each_epoch}}


class Data(LightningDataModule):
    """Five batches an epoch."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(40, 4, generator=generator)
        self.points = TensorDataset(x, (x[:, 0] > 0).long())

    def train_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=self.hparams["batch_size"])

    val_dataloader = train_dataloader
