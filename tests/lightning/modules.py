"""Small LightningModules and data as users write them, and a quiet trainer."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lit_optim
from lit_optim.optimizers.adamw import AdamW
from lit_optim.tasks.data import Pairs, TensorTask

#: Of the optimizer of `attach`.
LR = 0.1


class Plain(LightningModule):
    """No configure_optimizers of its own; float64, so that runs can be compared exactly."""

    def __init__(self, width: int = 4, none_every: int = 0):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.LayerNorm(width), nn.Linear(width, 1)
        ).double()
        self.none_every = none_every
        self.lrs: list[list[float]] = []

    def training_step(self, batch, batch_idx):
        if self.none_every and batch_idx % self.none_every == 0:
            return None
        loss = self.net(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])


class Mixed(lit_optim.OptimizerMixin, LightningModule):
    def __init__(self, width: int, optimizer, scheduler=None, param_groups=None):
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.scheduler, self.param_groups = optimizer, scheduler, param_groups
        self.net = nn.Linear(3, width)

    def training_step(self, batch, batch_idx):
        return self.net(batch[0].float()).square().mean()


class Data(LightningDataModule):
    def __init__(self, batches: int = 10, batch_size: int = 4):
        super().__init__()
        self.batches = batches
        self.batch_size = batch_size

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batches * self.batch_size, 3, dtype=torch.float64, generator=generator)
        return DataLoader(TensorDataset(x), batch_size=self.batch_size)


class Both(Data):
    """Validated with what it is trained with."""

    def val_dataloader(self):
        return self.train_dataloader()


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield (torch.ones(3, dtype=torch.float64),)


class EndlessData(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Endless(), batch_size=4)


class SineData(TensorTask):
    """A sum of sines to fit; the same data for training and validation."""

    def __init__(self, batches, batch_size):
        super().__init__(batch_size=batch_size)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batches * batch_size, 6, dtype=torch.float64, generator=generator)
        self.pairs = Pairs(x, x.sin().sum(1, keepdim=True))

    def train_set(self):
        return self.pairs

    def val_set(self):
        return self.pairs

    def test_set(self):
        return Pairs(self.pairs.x[:0], self.pairs.y[:0])


def trainer(tmp_path, **kwargs):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": tmp_path,
    }
    return Trainer(**(quiet | kwargs))


def fit(tmp_path, module, callbacks=(), **run):
    """Train with a quiet trainer on 10 batches; returns the trainer."""
    made = trainer(tmp_path, callbacks=list(callbacks), **run)
    made.fit(module, Data())
    return made


def attach(module, optimizer=None, scheduler=None, param_groups=None, **parts):
    optimizer = optimizer or partial(AdamW, lr=LR)
    module.configure_optimizers = partial(
        lit_optim.configure_optimizers, module, optimizer, scheduler, param_groups, **parts
    )
    return module
