"""A module that optimizes by hand, with as many optimizers as it is given."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import LightningModule
from torch import nn

import lit_optim
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup
from lit_optim.wrappers import Ema, Wrapped
from tests.lightning.modules import Data
from tests.lightning.modules import trainer as quiet_trainer

LR = 0.1


class Net(LightningModule):
    """Manual optimization of as many optimizers as `makes`; a step may be none, or several."""

    def __init__(self, *makes, schedule=None, steps=None, bad=(), returns=False, **parts):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.nets = nn.ModuleList(nn.Linear(3, 1).double() for _ in makes)
        self.makes, self.schedule, self.parts = makes, schedule or cosine_warmup(warmup=4), parts
        self.steps = steps or [1] * len(makes)
        self.bad, self.returns = set(bad), returns
        self.batches = 0
        self.used: list[list[float]] = [[] for _ in makes]

    def configure_optimizers(self):
        def groups(net):
            return lambda module: [{"params": list(net.parameters()), "name": "all"}]

        return [
            lit_optim.configure_optimizers(
                self, make, self.schedule, param_groups=groups(net), **self.parts
            )
            for make, net in zip(self.makes, self.nets, strict=True)
        ]

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        loss = None
        for k, (optimizer, net) in enumerate(zip(optimizers, self.nets, strict=True)):
            for _ in range(self.steps[k]):
                optimizer.zero_grad()
                loss = net(batch[0]).square().mean()
                if self.batches in self.bad:
                    loss = loss * float("nan")
                self.manual_backward(loss)
                self.used[k].append(optimizer.param_groups[0]["lr"])
                optimizer.step()
        self.batches += 1
        return loss.detach() if self.returns else None

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", sum(net(batch[0]).square().mean() for net in self.nets))


class Both(Data):
    def val_dataloader(self):
        return self.train_dataloader()


def trainer(path, callbacks=(), **run):
    saves = any(isinstance(c, Checkpoint) for c in callbacks)
    settings = {"num_sanity_val_steps": 0, "enable_checkpointing": saves}
    made = quiet_trainer(path, callbacks=list(callbacks), **(settings | run))
    made.strategy.checkpoint_io = CheckpointFiles()
    return made


def fit(path, module, callbacks=(), ckpt=None, **run):
    made = trainer(path, callbacks, **run)
    made.fit(module, Both(), ckpt_path=ckpt, weights_only=True)
    return made


def planned(schedule, steps, count=None):
    curve = schedule.curve(Horizon(steps))
    return [curve(t, LR) for t in range(steps if count is None else count)]


def ema(make):
    return Wrapped(partial(make, lr=LR), partial(Ema, decay=0.5, warmup=False))
