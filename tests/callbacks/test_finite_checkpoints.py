"""No checkpoint holds weights that are not finite, whatever the policy and the cause."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

import lit_optim
from lit_optim.callbacks.averaged_weights import TRAINING_WEIGHTS
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.nonfinite import NonFinite
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.errors import TrainingFailed
from lit_optim.wrappers import Ema, Lookahead, Wrapped, none
from tests.lightning.modules import Both

NAN, INF = math.nan, math.inf
WRAPPERS = {"none": none, "ema": Ema, "lookahead": partial(Lookahead, k=100)}


class Net(LightningModule):
    """Judged by a metric that is finite whatever the weights are, as an accuracy is."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)).double()
        self.register_buffer("mask", torch.tensor([0.0, -INF, NAN]))  # as causal masks are
        self.register_buffer("scale", torch.ones(2))
        self.make = make

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make)

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", 0.1)


class Spoil(Callback):
    """Puts a value into something at a time."""

    def __init__(self, place, value, at):
        self.place, self.value, self.at = place, value, at

    @torch.no_grad()
    def spoil(self, trainer, module):
        optimizer = trainer.optimizers[0]
        first = module.net[0].weight
        tensor = {
            "weight": lambda: first,
            "statistics": lambda: module.net[1].running_var,
            "buffer": lambda: module.scale,
            "average": lambda: optimizer.average[first],
            "slow": lambda: optimizer.slow[first],
            "z": lambda: optimizer.state[first]["z"],
        }[self.place]()
        tensor.view(-1)[0] = self.value

    def on_train_start(self, trainer, pl_module):
        if self.at == "start":
            self.spoil(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *others):
        if self.at == trainer.global_step:
            self.spoil(trainer, pl_module)


def fit(where, make, policy, *callbacks, sanity=0, load=None):
    module = Net(make)
    if load is not None:
        with torch.no_grad():
            module.net[0].weight[0, 0] = load
    kept = Checkpoint(where, monitor="val/acc", mode="max")
    trainer = Trainer(
        callbacks=[NonFinite(policy), *callbacks, kept], max_epochs=2, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=sanity,
    )  # fmt: skip
    trainer.strategy.checkpoint_io = CheckpointFiles()
    with suppress(TrainingFailed):
        trainer.fit(module, Both())


def assert_all_finite(where):
    found = sorted(path.name for path in where.glob("*.ckpt"))
    for path in where.glob("*.ckpt"):
        saved = torch.load(path)
        for part in (saved["state_dict"], saved.get(TRAINING_WEIGHTS, {})):
            for name, value in part.items():
                assert name == "mask" or torch.isfinite(value).all(), f"{path.name}: {name}"
    return found


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_not_finite_when_they_are_loaded(tmp_path, policy, wrapper, value):
    make = Wrapped(partial(lit_optim.SGD, lr=0.1), WRAPPERS[wrapper])
    for sanity in (0, 2):
        fit(tmp_path, make, policy, sanity=sanity, load=value)
        assert assert_all_finite(tmp_path) == []


PLACES = [
    *itertools.product(["weight", "statistics", "buffer"], WRAPPERS),
    ("average", "ema"),
    ("slow", "lookahead"),
]


@pytest.mark.parametrize(("place", "wrapper"), PLACES)
@pytest.mark.parametrize("at", ["start", 10, 15])
def test_whatever_becomes_so_on_the_way(tmp_path, place, wrapper, at):
    if at == "start" and place in ("average", "slow"):
        pytest.skip("there is none yet")
    make = Wrapped(partial(lit_optim.SGD, lr=0.1), WRAPPERS[wrapper])
    fit(tmp_path, make, "skip", Spoil(place, NAN, at))
    found = assert_all_finite(tmp_path)
    assert found == (["best.ckpt", "last.ckpt"] if at == 15 else [])  # those of the first epoch


@pytest.mark.parametrize("at", [10, 15])
def test_the_average_of_schedule_free(tmp_path, at):
    make = partial(lit_optim.ScheduleFreeAdamW, lr=0.1)
    fit(tmp_path, make, "skip", Spoil("z", NAN, at))
    found = assert_all_finite(tmp_path)
    assert found == (["best.ckpt", "last.ckpt"] if at == 15 else [])


def test_a_run_that_is_well_has_both(tmp_path):
    for name, wrapper in WRAPPERS.items():
        fit(tmp_path / name, Wrapped(partial(lit_optim.SGD, lr=0.1), wrapper), "stop")
        found = assert_all_finite(tmp_path / name)
        assert found == ["best.ckpt", "last.ckpt", "previous.ckpt"]
