"""Modules that build optimizer and scheduler from what their constructor is given."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

import lit_optim
from lit_optim import AdamW, Muon
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.lightning.serving import ServedOptimizer, serve
from lit_optim.param_groups import layer_decay, no_decay, single
from lit_optim.runs.build import build_run
from lit_optim.schedules.library import constant_warmup, cosine_warmup, linear
from lit_optim.wrappers import Ema
from lit_optim.wrappers.wrapper import none
from tests.lightning.modules import Data, trainer

LR = 0.1


class Template(LightningModule):
    """As lightning-hydra-template writes it; `form` says what is returned."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, form: str = "dict"
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 1))
        self.lrs = []

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0].float()) - 1).square().mean()

    def on_before_optimizer_step(self, optimizer):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])

    def configure_optimizers(self):
        form, params = self.hparams.form, self.trainer.model.parameters()
        if form == "own":  # only the schedule is ours
            optimizer = torch.optim.AdamW(params, lr=LR)
        elif form == "name":
            optimizer = self.hparams.optimizer(list(params))
        else:
            optimizer = self.hparams.optimizer(params=params)
        if self.hparams.scheduler is None:
            return optimizer
        scheduler = self.hparams.scheduler(optimizer=optimizer)
        assert isinstance(scheduler, LRScheduler)
        if form == "lists":
            return [optimizer], [scheduler]
        if form == "configs":
            return [optimizer], [{"scheduler": scheduler, "interval": "epoch"}]
        if form == "plain":
            return {"optimizer": optimizer, "lr_scheduler": scheduler}
        if form == "forgotten":
            return optimizer
        config = {"scheduler": scheduler, "monitor": "val/loss", "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": config | {"frequency": 1}}


class Ours(Template):
    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, *self.given)


def fit(tmp_path, module, **limits):
    run = trainer(tmp_path, **(limits or {"max_epochs": 2}))
    run.fit(module, Data())
    return run


def served(make, scheduler, groups, form="dict", wrap=none):
    module = Template(ServedOptimizer(make, wrap), scheduler, form)
    module.configure_optimizers = partial(
        serve, module, module.configure_optimizers, scheduler, groups, {}
    )
    return module


@pytest.mark.parametrize("form", ["dict", "lists", "configs", "plain", "name", "forgotten"])
@pytest.mark.parametrize("scheduler", [cosine_warmup(), linear(warmup=3), None], ids="cln")
@pytest.mark.parametrize("groups", [None, single, layer_decay], ids=["default", "single", "layers"])
@pytest.mark.parametrize(
    "make", [partial(AdamW, lr=LR), partial(Muon, lr=LR)], ids=["adamw", "muon"]
)
def test_as_if_it_called_configure_optimizers(tmp_path, form, scheduler, groups, make):
    module = served(make, scheduler, groups, form)
    run = fit(tmp_path, module)
    expected = Ours(None, None)
    expected.given = make, scheduler, groups
    fit(tmp_path, expected)
    assert module.lrs == expected.lrs
    names = [g["param_names"] for g in run.optimizers[0].param_groups]
    assert names == [g["param_names"] for g in expected.trainer.optimizers[0].param_groups]
    for p, q in zip(module.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)
    for config in run.lr_scheduler_configs:
        assert (config.interval, config.frequency) == ("step", 1)


def test_a_schedule_for_an_optimizer_of_its_own(tmp_path):
    module = served(AdamW, linear(), None, "own")
    fit(tmp_path, module)
    assert [lrs[0] for lrs in module.lrs] == pytest.approx([LR * (19 - t) / 20 for t in range(20)])


class Two(Template):
    """Each of two optimizers has a part of the parameters."""

    automatic_optimization = property(lambda self: False, lambda self, value: None)

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self):
        lower = self.hparams.optimizer(params=self.net[:2].parameters())
        upper = self.hparams.optimizer(params=self.net[2:].parameters())
        return [lower, upper], []


def test_parts_of_the_parameters(tmp_path):
    module = Two(ServedOptimizer(AdamW, none), None)
    module.configure_optimizers = partial(
        serve, module, module.configure_optimizers, None, no_decay, {}
    )
    run = fit(tmp_path, module)
    found = [[g["param_names"] for g in o.param_groups] for o in run.optimizers]
    assert found == [
        [["net.0.weight"], ["net.0.bias", "net.1.weight", "net.1.bias"]],
        [["net.2.weight", "net.3.weight"], ["net.2.bias", "net.3.bias"]],
    ]


def test_averages_are_validated(tmp_path):
    module = served(partial(AdamW, lr=LR), cosine_warmup(), None, wrap=Ema)
    run = fit(tmp_path, module)
    assert isinstance(run.optimizers[0], Ema)
    assert any(type(callback).__name__ == "AveragedWeights" for callback in run.callbacks)


def test_a_served_module_can_be_copied_and_pickled():
    module = served(partial(AdamW, lr=LR), cosine_warmup(), None)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.configure_optimizers.args[0] is twin
        assert twin.configure_optimizers.args[1].__self__ is twin


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "schedule_free_adamw"])
@pytest.mark.parametrize("scheduler", ["cosine_warmup", "none"])
def test_on_the_command_line(tmp_path, optimizer, scheduler):
    argv = [
        f"optimizer={optimizer}", f"scheduler={scheduler}", "allow=[tests]", "logger=none",
        "model=custom", "model._target_=tests.lightning.test_serving.Template", "data=custom",
        "data._target_=tests.lightning.modules.Data", "trainer.max_steps=6", "preset=none",
        "trainer.enable_progress_bar=false", "trainer.enable_checkpointing=false",
        "trainer.enable_model_summary=false", "trainer.num_sanity_val_steps=0",
    ]  # fmt: skip
    parts = build_run(compose_config(prepare_command_line(argv).argv), tmp_path)
    parts.trainer.fit(parts.model, parts.data)
    assert parts.trainer.global_step == 6
    lrs = [lrs[0] for lrs in parts.model.lrs]
    assert (len(set(lrs)) > 1) == (scheduler != "none")


@pytest.mark.parametrize("total", [8, "8"])
def test_a_schedule_of_known_length_makes_a_torch_scheduler(total):
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=LR)
    scheduler = linear(total=total)(optimizer=optimizer)
    seen = []
    for _ in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        p.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([LR * (7 - t) / 8 for t in range(8)])


@pytest.mark.parametrize(
    "schedule",
    [
        cosine_warmup(),
        constant_warmup(),
        linear(total="2 epochs"),
        cosine_warmup("1 epoch", total=8),
    ],
)
def test_a_schedule_of_unknown_length_says_the_way_out(schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=LR)
    with pytest.raises(UsageError, match=r"give steps.* returns lit_optim\.conf"):
        schedule(optimizer=optimizer)
