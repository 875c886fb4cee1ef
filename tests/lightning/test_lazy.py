"""Lazy layers get their shapes before param groups are built."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import MeanMetric

import lit_optim
from lit_optim import SGD, AdamW, Muon, OptimizerMixin
from lit_optim.errors import UsageError
from lit_optim.param_groups import by_rules, layer_decay, no_decay, single
from lit_optim.schedules.library import linear
from tests.lightning.modules import Data, trainer


class Lazy(LightningModule):
    """Several lazy layers, one of them behind a batch norm and a dropout."""

    lazy = True

    def __init__(self, make=partial(AdamW, lr=0.01), groups=None):  # noqa: B008
        super().__init__()
        torch.manual_seed(0)
        first = nn.LazyLinear(6) if self.lazy else nn.Linear(3, 6)
        norm = nn.LazyBatchNorm1d() if self.lazy else nn.BatchNorm1d(6)
        mid = nn.LazyLinear(5) if self.lazy else nn.Linear(6, 5)
        last = nn.LazyLinear(2) if self.lazy else nn.Linear(5, 2)
        self.net = nn.Sequential(first, norm, nn.BatchNorm1d(6), nn.ReLU(), mid, nn.ReLU(), last)
        self.metric = MeanMetric()
        self.make, self.groups, self.batches = make, groups, []

    def training_step(self, batch, batch_idx):
        out = self.net(batch[0].float())
        self.log("train/loss", out.mean())
        self.batches.append(batch_idx)
        self.metric.update(out.mean())
        return (out - 1).square().mean()

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make, linear(), self.groups)


class Eager(Lazy):
    lazy = False


def named(run):
    groups = run.optimizers[0].param_groups
    return [(g["name"], g["param_names"], g["weight_decay"], g.get("role")) for g in groups]


@pytest.mark.parametrize("make", [AdamW, Muon, SGD])
@pytest.mark.parametrize(
    "groups",
    [None, no_decay, single, layer_decay, partial(by_rules, rules=[{"ndim": 2, "lr_mult": 0.5}])],
    ids=["default", "no_decay", "single", "layers", "rules"],
)
def test_lazy_layers_are_grouped_like_other_layers(tmp_path, make, groups):
    runs = []
    for kind in (Lazy, Eager):
        module = kind(partial(make, lr=0.01), groups)
        runs.append(trainer(tmp_path, max_steps=3))
        runs[-1].fit(module, Data())
        assert module.batches == [0, 1, 2]  # the dry pass has not come so far
        assert module.metric.update_count == 3
    assert named(runs[0]) == named(runs[1])


def test_the_dry_pass_leaves_nothing_behind(tmp_path):
    module = Lazy()
    seen = {}

    def look(layer, given):
        seen.setdefault("mean", layer.running_mean.clone())
        seen.setdefault("count", layer.num_batches_tracked.clone())

    def start():
        for layer in (module.net[1], module.net[2]):
            layer.register_forward_pre_hook(look)
            for name in ("running_mean", "num_batches_tracked"):
                assert not getattr(layer, name).any()

    module.on_train_start = start
    trainer(tmp_path, max_steps=2).fit(module, Data())
    assert not seen["mean"].any()
    assert module.log.__func__ is LightningModule.log
    assert isinstance(module.net[1], nn.BatchNorm1d)


def test_an_example_is_enough(tmp_path):
    module = Lazy()
    module.example_input_array = torch.ones(4, 3)
    module.forward = lambda x: module.net(x)
    module.training_step = partial(_never_before_training, module)
    trainer(tmp_path, max_steps=2).fit(module, Data())
    assert module.net[0].weight.shape == (6, 3)


def _never_before_training(module, batch, batch_idx):
    assert module.trainer.optimizers
    return module.net(batch[0].float()).square().mean()


class Unreached(Lazy):
    def __init__(self):
        super().__init__()
        self.other = nn.LazyLinear(3)


class Broken(Lazy):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("not before noon")


class Manual(Lazy):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0].float()).square().mean()
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unreached, "no input reaches the lazy layer other: set example_input_array in the module"),
        (
            Broken,
            r"lazy layer net\.0 could not be found by a dry training_step \(RuntimeError: not",
        ),
    ],
)
def test_layers_that_the_dry_pass_does_not_reach_are_refused(tmp_path, kind, message):
    with pytest.raises(UsageError, match=message) as error:
        trainer(tmp_path, max_steps=2).fit(kind(), Data())
    assert "\n" not in str(error.value)


def test_manual_optimization(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.fit(Manual(), Data())
    assert run.optimizers[0].param_groups[0]["name"] == "decay"


class Mixed(OptimizerMixin, Lazy):
    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer

    configure_optimizers = OptimizerMixin.configure_optimizers


def test_the_mixin_and_a_run_that_goes_on(tmp_path):
    module = Mixed(partial(AdamW, lr=0.01))
    run = trainer(tmp_path, max_steps=3)
    run.fit(module, Data())
    run.save_checkpoint(tmp_path / "lazy.ckpt")
    again = Mixed(partial(AdamW, lr=0.01))
    kept = copy.deepcopy(module.state_dict())
    trainer(tmp_path, max_steps=3).fit(again, Data(), ckpt_path=tmp_path / "lazy.ckpt")
    for name, value in again.state_dict().items():
        assert torch.equal(value, kept[name])


@pytest.mark.usefixtures("user_code")
def test_on_the_command_line(tmp_path, monkeypatch):
    """In this process: what explain tells of a lazy module of one's own."""
    import sys

    from rich.console import Console

    from lit_optim.reports.explanation import explain
    from tests.user_code import CUSTOM

    text = (tmp_path / "user_code.py").read_text()
    lazy = text.replace("torch.nn.Linear(3, width)", "torch.nn.LazyLinear(width)")
    assert lazy != text
    (tmp_path / "user_code.py").write_text(lazy)
    monkeypatch.syspath_prepend(tmp_path)
    console = Console(width=200, record=True)
    try:
        explain([*CUSTOM, "model.width=5", "optimizer=muon"], console)
    finally:
        sys.modules.pop("user_code", None)
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["net.0.weight", "hidden", "Muon"] in [row[:3] for row in rows]
