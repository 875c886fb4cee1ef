"""Averaging optimizers show the average wherever they do not train, under a real Trainer."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

import lit_optim
from lit_optim import AdamW, ScheduleFreeAdamW, ScheduleFreeSGD
from lit_optim.wrappers import Ema, Wrapped
from tests.lightning.modules import Data, Plain

MAKE = {
    "adamw": partial(ScheduleFreeAdamW, lr=0.05, warmup_steps=3),
    "sgd": partial(ScheduleFreeSGD, lr=0.1),
    "ema": Wrapped(partial(AdamW, lr=0.05), partial(Ema, decay=0.9, warmup=False)),
}


class Validated(Plain):
    """Records its weights in every hook."""

    def __init__(self):
        super().__init__()
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make)

    def note(self, stage):
        self.seen[stage].append([p.detach().clone() for p in self.parameters()])

    def training_step(self, batch, batch_idx):
        self.note("train")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.note("val")
        if not self.trainer.sanity_checking and self.trainer.current_epoch == self.fails_at:
            raise RuntimeError("as told")
        self.log("val/loss", self.net(batch[0]).square().mean())

    def test_step(self, batch, batch_idx):
        self.note("test")

    def predict_step(self, batch, batch_idx):
        self.note("predict")


class Both(Data):
    def val_dataloader(self):
        return DataLoader(self.train_dataloader().dataset, batch_size=100)

    test_dataloader = predict_dataloader = val_dataloader


def trainer(tmp_path, *callbacks, **kwargs):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": bool(callbacks),
        "default_root_dir": tmp_path,
        "callbacks": [*callbacks],
    }
    return Trainer(**(quiet | kwargs))


def same(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


def made(name, fails_at=None):
    torch.manual_seed(0)
    module = Validated()
    module.make, module.fails_at = MAKE[name], fails_at
    return module


def average_of(module):
    """x = y + (1 - 1 / beta) (z - y), from the weights in training; Ema by its definition."""
    averaged = module.trainer.callbacks[0]
    optimizer = averaged.optimizer
    if isinstance(optimizer, Ema):
        first, *after = [*module.seen["train"], list(averaged.training_weights.values())]
        average = [p.clone() for p in first]
        for weights in after:
            average = [0.9 * e + 0.1 * p for e, p in zip(average, weights, strict=True)]
        return average
    names = {p: name for name, p in module.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        weight = 1 - 1 / optimizer.beta(group)
        for p in group["params"]:
            y = averaged.training_weights[names[p]]
            found[names[p]] = y + weight * (optimizer.state[p]["z"] - y)
    return [found[name] for name in names.values()]


@pytest.mark.parametrize("name", MAKE)
def test_all_but_training_sees_the_average(name, tmp_path):
    module = made(name)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, Both())
    expected = average_of(module)
    run.validate(module, Both(), verbose=False)
    run.test(module, Both(), verbose=False)
    run.predict(module, Both())
    weights = list(module.parameters())
    for stage in ("val", "test", "predict"):
        assert same(module.seen[stage][-1], weights), stage
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in zip(weights, expected, strict=True))
    assert same(module.seen["val"][-2], weights)  # of the last epoch
    assert not same(module.seen["val"][1], module.seen["train"][9])
    assert not same(module.seen["val"][1], module.seen["train"][10])


@pytest.mark.parametrize("name", MAKE)
def test_looking_changes_nothing(name, tmp_path):
    looked, alone = made(name), made(name)
    keeping = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=3)
    trainer(tmp_path, keeping, max_epochs=3, val_check_interval=4).fit(looked, Both())
    trainer(tmp_path, max_epochs=3).fit(alone, Data())
    assert len(looked.seen["train"]) == len(alone.seen["train"]) == 30
    for ours, theirs in zip(looked.seen["train"], alone.seen["train"], strict=True):
        assert same(ours, theirs)
    assert same(looked.parameters(), alone.parameters())


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_holds_the_average(name, weights_only, tmp_path):
    module = made(name)
    keeping = ModelCheckpoint(tmp_path, save_weights_only=weights_only, filename="last")
    trainer(tmp_path, keeping, max_epochs=2).fit(module, Both())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert same(saved["state_dict"].values(), module.state_dict().values())
    assert same(saved["state_dict"].values(), module.seen["val"][-1])
    assert ("training_weights" in saved) != weights_only


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("met", [7, 10])  # within an epoch, and at its end
def test_resuming_continues_to_the_bit(name, met, tmp_path):
    straight, first, second = made(name), made(name), made(name)
    trainer(tmp_path, max_steps=25).fit(straight, Both())
    keeping = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=met, filename="{step}")
    trainer(tmp_path, keeping, max_steps=met).fit(first, Both())
    (path,) = tmp_path.glob(f"step={met}*.ckpt")
    trainer(tmp_path, max_steps=25).fit(second, Both(), ckpt_path=path, weights_only=True)
    assert same(second.seen["train"][0], straight.seen["train"][met])
    if met == 10:  # a plain loader begins a broken epoch again, with other data
        for ours, theirs in zip(second.seen["train"], straight.seen["train"][10:], strict=True):
            assert same(ours, theirs)
        assert same(second.parameters(), straight.parameters())


def test_an_exception_in_validation_leaves_nothing_swapped(tmp_path):
    module, straight = made("adamw", fails_at=1), made("adamw")
    keeping = ModelCheckpoint(tmp_path, save_on_exception=True)
    with pytest.raises(RuntimeError, match="as told"):
        trainer(tmp_path, keeping, max_epochs=3).fit(module, Both())
    trainer(tmp_path, max_epochs=3).fit(straight, Both())
    assert same(module.parameters(), straight.seen["train"][20])
    averaged = module.trainer.callbacks[0]
    assert averaged.training_weights is None
    assert all(group["train_mode"] for group in averaged.optimizer.param_groups)


def test_optimizers_of_other_packages_are_averaged_too(tmp_path):
    schedulefree = pytest.importorskip("schedulefree")
    ours, theirs = made("adamw"), made("adamw")
    theirs.make = partial(schedulefree.AdamWScheduleFree, lr=0.05, warmup_steps=3, foreach=False)
    trainer(tmp_path, max_epochs=2).fit(ours, Both())
    trainer(tmp_path, max_epochs=2).fit(theirs, Both())
    for a, b in zip(ours.seen["val"][-1], theirs.seen["val"][-1], strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_a_second_fit_begins_at_the_average(tmp_path):
    module = made("adamw")
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, Both())
    average = [p.detach().clone() for p in module.parameters()]
    run.fit_loop.max_epochs = 2
    run.fit(module, Both())
    assert same(module.seen["train"][10], average)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.LayerNorm(4)], ids=str)
def test_batch_norm_is_warned_of(norm, tmp_path, caplog):
    module = made("adamw")
    module.net[1] = norm.double()
    with caplog.at_level(logging.WARNING, "lit_optim"):
        trainer(tmp_path, max_epochs=1).fit(module, Both())
    said = [record.getMessage() for record in caplog.records if record.name == "lit_optim"]
    assert len(said) == isinstance(norm, nn.BatchNorm1d)
    assert not said or "running statistics" in said[0]
