"""Runs that are killed and resumed, and what must be the same as without."""

from __future__ import annotations

import os
import signal

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import nn

import lit_optim
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.resumable import Resumable
from lit_optim.checkpoints.files import CheckpointFiles, find_newest_intact
from lit_optim.config.places import groups, listed_choices
from tests.lightning.modules import SineData

OPTIMIZERS = sorted(listed_choices("optimizer"))
SCHEDULERS = sorted(groups()["scheduler"])
BATCHES = 6  # of an epoch


class Data(SineData):
    def __init__(self):
        super().__init__(BATCHES, batch_size=4)


class Net(LightningModule):
    """Has dropout, so that the random states must be restored too."""

    monitor = ("val/loss", "min")

    def __init__(self, make, schedule=None, bias=True, **parts):
        super().__init__()
        first = nn.Linear(6, 8, bias)
        others = nn.Linear(8, 8, bias), nn.Linear(8, 1, bias)
        self.net = nn.Sequential(first, nn.Tanh(), nn.Dropout(0.3), *others).double()
        self.make, self.schedule, self.parts = make, schedule, parts
        self.seen, self.lrs = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].sum().item())
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log("train/loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make, self.schedule, **self.parts)


class Kill(Callback):
    """Kill by SIGKILL, which cannot be handled."""

    def __init__(self, epoch, batch):
        self.at = epoch, batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.strategy.checkpoint_io.settle()  # else it is chance which is on the disk
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(work):
    """Do it in a forked process, which must be killed on the way."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # those of the parent are not there
        try:
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def fit(path, make, schedule, killed_at=None, ckpt=None, more=(), data=None, parts=None, **run):
    torch.manual_seed(0 if ckpt is None else 99)  # nothing may hang on how the second one begins
    module = Net(make, schedule, **(parts or {}))
    callbacks = [Checkpoint(path, monitor="val/loss"), Resumable(), *more]
    callbacks += [Kill(*killed_at)] if killed_at else []
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "max_epochs": 3, "val_check_interval": 2}
    trainer = Trainer(callbacks=callbacks, default_root_dir=path, **(settings | run))
    trainer.strategy.checkpoint_io = CheckpointFiles()

    def run():
        trainer.fit(module, data or Data(), ckpt_path=ckpt, weights_only=True)

    if killed_at:
        in_a_child(run)
    else:
        run()
    return module


def same(one, other):
    """To the bit; NaN is NaN."""
    if isinstance(one, torch.Tensor):
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def assert_goes_on(tmp_path, make, schedule, killed_at=(1, 3), **run):
    """Killed in the middle of an epoch, after a validation in it; or in the first batch of one."""
    whole = fit(tmp_path / "whole", make, schedule, **run)
    fit(tmp_path / "parts", make, schedule, killed_at=killed_at, **run)
    checkpoint = find_newest_intact(tmp_path / "parts")
    rest = fit(tmp_path / "parts", make, schedule, ckpt=checkpoint, **run)
    assert rest.seen == whole.seen[-len(rest.seen) :]
    assert 0 < len(rest.seen) < len(whole.seen)
    assert rest.lrs == whole.lrs[-len(rest.lrs) :]
    assert same(whole.state_dict(), rest.state_dict())
    one, other = (m.trainer.optimizers[0].state_dict() for m in (whole, rest))
    assert same(one, other)
    return whole


def build_choice(group, name, **more):
    node = OmegaConf.load(groups()[group][name])
    node.pop("defaults", None)
    for key, value in OmegaConf.to_container(node).items():
        if str(value).startswith("${"):  # the run's, which here the module declares
            node[key] = None
    return instantiate(node, _convert_="all", **more)
