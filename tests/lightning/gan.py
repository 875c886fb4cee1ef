"""A module of two parts, each with an optimizer, which are updated in manual optimization."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

import lit_optim
from lit_optim import SGD
from lit_optim.schedules.library import linear

LR, BATCHES = 0.1, 10


def network(width):
    return nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))


class Gan(LightningModule):
    """A critic makes `critic_steps` updates per batch, a generator one in every `every` batches."""

    def __init__(self, configure, every=1, critic_steps=1):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator, self.critic = network(4).double(), network(5).double()
        self.configure, self.every, self.critic_steps = configure, every, critic_steps
        self.batches, self.used = 0, ([], [])

    def configure_optimizers(self):
        return self.configure(self)

    def training_step(self, batch, batch_idx):
        generator, critic = self.optimizers()
        for _ in range(self.critic_steps):
            self.step(1, critic, self.critic(self.generator(batch[0]).detach()).square().mean())
        self.batches += 1
        if self.batches % self.every == 0:
            self.step(0, generator, (self.critic(self.generator(batch[0])) - 1).square().mean())

    def step(self, place, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.used[place].append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.generator(batch[0]).square().mean())


def both(generator=None, critic=None, schedule=linear, make=None):
    """Configure an optimizer for each; the arguments are those of `configure_optimizers`."""

    make = make or partial(SGD, lr=LR)

    def configure(self):
        parts = [(self.generator, generator or {}), (self.critic, critic or {})]
        return [
            lit_optim.configure_optimizers(self, make, schedule(), of=of, **more)
            for of, more in parts
        ]

    return configure


def falling(steps):
    """`linear` by its formula: straight down to 0 at the last update."""
    return pytest.approx([LR * (steps - 1 - t) / steps for t in range(steps)], abs=1e-15)
