"""Hydra apps of others: our example, hydra-zen, structured configs, lightning-hydra-template."""

from __future__ import annotations

import math
import runpy
import sys
from dataclasses import dataclass, field
from importlib import import_module

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import lit_optim
from lit_optim import lr_schedulers
from lit_optim.config.places import groups, listed_choices, target_of
from lit_optim.schedules.core import Schedule
from tests.clients import hydra_template
from tests.clients.conftest import import_client
from tests.conftest import ROOT

APP = ROOT / "examples" / "hydra_app"
OPTIMIZERS = {
    name: instantiate({"_target_": "hydra.utils.get_class", "path": target_of(path)})
    for name, path in listed_choices("optimizer").items()
}


def module(name="adamw"):
    torch.manual_seed(0)
    if name in ("muon_torch", "sparse_adam"):  # for matrices, or sparse gradients
        return nn.Embedding(5, 3, sparse=name == "sparse_adam")
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def settings(optimizer):
    """What the groups hold; OmegaConf has no tuples."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return [
        {k: list(v) if isinstance(v, tuple) else v for k, v in group.items()} for group in groups
    ]


# -- the example ---------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(APP))
    monkeypatch.chdir(tmp_path)
    yield import_module("app")
    for name in ("app", "spirals"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=muon", "optimizer.lr=0.05", "scheduler=wsd"],
        ["optimizer=sgd", "optimizer.lr=1.0", "scheduler=linear", "wrapper=ema"],
        ["optimizer=adamw", "param_groups=layer_decay", "scheduler=linear", "wrapper=sam"],
        ["optimizer=lbfgs", "param_groups=single", "scheduler=none", "steps=8"],
    ],
    ids=lambda overrides: ",".join(overrides) or "defaults",
)
def test_the_example_trains(example, overrides, capsys):
    with initialize_config_dir(str(APP / "conf"), version_base="1.3"):
        loss = example.train.__wrapped__(compose("config", ["steps=60", *overrides]))
    assert loss < 0.45  # from 0.69
    lr = float(capsys.readouterr().out.rpartition("lr ")[2])
    assert lr == (0.01 if "scheduler=none" in overrides else 0.0)


def test_the_example_sweeps(example, monkeypatch, capsys):
    swept = "optimizer=adamw,lion"
    monkeypatch.setattr(sys, "argv", ["app.py", "-m", swept, "steps=3", "hydra.sweep.dir=sweep"])
    runpy.run_path(str(APP / "app.py"), run_name="__main__")
    assert capsys.readouterr().out.count("loss 0.") == 2


# -- hydra-zen and structured configs ------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zen_builds_every_optimizer(name):
    zen = import_client("hydra_zen")
    conf = zen.builds(OPTIMIZERS[name], populate_full_signature=True, zen_partial=True)
    made = zen.instantiate(conf)(module(name).parameters())
    assert settings(made) == settings(OPTIMIZERS[name](module(name).parameters()))
    if "betas" in made.defaults:  # as an override on the command line makes it
        betas = [0.5 for _ in made.defaults["betas"]]
        cfg = OmegaConf.merge(OmegaConf.structured(conf), {"betas": betas})
        assert list(instantiate(cfg)(module(name).parameters()).defaults["betas"]) == betas


@pytest.mark.parametrize("name", sorted(set(groups()["scheduler"]) - {"none"}))
def test_zen_builds_every_schedule(name):
    zen = import_client("hydra_zen")
    node = OmegaConf.load(groups()["scheduler"][name])
    function = instantiate({"_target_": "hydra.utils.get_method", "path": node._target_})
    made = zen.instantiate(zen.builds(function, populate_full_signature=True))
    assert isinstance(made, Schedule)
    assert made == function()


@pytest.mark.parametrize("name", [None, "no_decay", "single", "layer_decay", "divide_parameters"])
def test_zen_builds_param_groups(name):
    zen = import_client("hydra_zen")
    package = lit_optim.param_groups
    function = package if name is None else getattr(package, name)
    conf = zen.builds(function, populate_full_signature=True, zen_partial=True)
    read = OmegaConf.create(zen.to_yaml(conf))
    net = module()
    made, expected = instantiate(read)(net), function(net)
    assert [group["name"] for group in made] == [group["name"] for group in expected]


def test_zen_runs_a_task_with_partials_of_ours():
    zen = import_client("hydra_zen")
    store = zen.ZenStore(deferred_hydra_store=True)
    store(lit_optim.AdamW, group="optimizer", name="adamw", zen_partial=True, lr=0.1)
    store(lr_schedulers.linear, group="scheduler", name="linear", zen_partial=True, steps=10)

    def fit(optimizer, scheduler):
        net = module()
        made = optimizer(net.parameters())
        stepped = scheduler(made)
        lrs = []
        for _ in range(10):
            lrs.append(made.param_groups[0]["lr"])
            net(torch.ones(2, 4)).sum().backward()
            made.step()
            stepped.step()
        return lrs

    config = zen.make_config(
        optimizer=store["optimizer", "adamw"], scheduler=store["scheduler", "linear"]
    )
    expected = [0.1 * (1 - (t + 1) / 10) for t in range(10)]
    assert zen.zen(fit)(config) == pytest.approx(expected)


@dataclass
class AdamWConf:
    """A structured config, as an app writes it."""

    _target_: str = "lit_optim.AdamW"
    _partial_: bool = True
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.1


@dataclass
class ScheduleConf:
    """The same for a schedule."""

    _target_: str = "lit_optim.schedules.multistep"
    milestones: list[str] = field(default_factory=lambda: ["50%"])
    total: str = "100"


def test_structured_configs():
    node = OmegaConf.structured(AdamWConf(betas=(0.8, 0.99)))
    optimizer = instantiate(node)(module().parameters())
    assert settings(optimizer) == settings(
        lit_optim.AdamW(module().parameters(), betas=(0.8, 0.99), weight_decay=0.1)
    )
    schedule = instantiate(OmegaConf.structured(ScheduleConf))
    scheduler = schedule(optimizer=optimizer)
    assert scheduler.get_last_lr() == [1e-3]


# -- lightning-hydra-template --------------------------------------------------------------------

MODEL = {
    "_target_": "tests.clients.hydra_template.Module",
    "net": {"_target_": "tests.clients.hydra_template.Net", "width": 8},
    "scheduler": {"total": 20},
}
TEMPLATE = {
    "data": {"_target_": "tests.clients.hydra_template.Data", "batch_size": 8},
    "callbacks": {
        "checkpoint": {
            "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
            "dirpath": "checkpoints",
            "monitor": "val/loss",
            "save_last": True,
        }
    },
    "trainer": {
        "_target_": "lightning.pytorch.Trainer",
        "max_epochs": 4,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "hydra": {"searchpath": ["pkg://lit_optim.hydra"]},
}


def run_template(tmp_path, optimizer, scheduler, overrides=()):
    chosen = [{"/optimizer@optimizer": optimizer}, {"/scheduler@scheduler": scheduler}, "_self_"]
    (tmp_path / "model").mkdir()
    OmegaConf.save(MODEL | {"defaults": chosen}, tmp_path / "model/ours.yaml")
    OmegaConf.save(TEMPLATE | {"defaults": ["_self_", {"model": "ours"}]}, tmp_path / "train.yaml")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose("train", list(overrides))
    torch.manual_seed(0)
    data, model = instantiate(cfg.data), instantiate(cfg.model)
    callbacks = [instantiate(node) for node in cfg.callbacks.values()]
    trainer = instantiate(cfg.trainer, callbacks=callbacks)
    trainer.fit(model=model, datamodule=data)
    return trainer, model


@pytest.fixture(autouse=True)
def _same_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "schedule_free_adamw"])
def test_the_template_takes_our_optimizers_and_schedules(tmp_path, optimizer):
    schedule = "constant" if optimizer.startswith("schedule_free") else "cosine"
    trainer, model = run_template(tmp_path, optimizer, schedule)
    peak = trainer.optimizers[0].param_groups[0]["initial_lr"]
    falling = [peak * 0.5 * (1 + math.cos(math.pi * (t + 1) / 20)) for t in range(20)]
    expected = falling if schedule == "cosine" else [peak] * 20
    assert model.lrs == pytest.approx(expected, abs=1e-9)  # though it is stepped once an epoch
    if optimizer == "muon":
        roles = {g["role"] for g in trainer.optimizers[0].param_groups}
        assert {"hidden", "norm", "bias"} <= roles
    # what the template reads for its tests: hparams with the partials are in the checkpoint
    path = trainer.checkpoint_callback.best_model_path
    again = hydra_template.Module.load_from_checkpoint(
        path, net=hydra_template.Net(8), weights_only=False
    )
    assert again.hparams["scheduler"] == model.hparams["scheduler"]


def test_the_template_says_what_a_schedule_needs(tmp_path):
    with pytest.raises(lit_optim.errors.UsageError, match="total") as error:
        run_template(tmp_path, "adamw", "cosine", ["model.scheduler.total=null"])
    assert "\n" not in str(error.value)


def test_the_template_takes_no_schedule(tmp_path):
    _, model = run_template(tmp_path, "adamw", "none", ["~model.scheduler.total"])
    assert set(model.lrs) == {1e-3}


@pytest.mark.parametrize("name", ["plateau", "ReduceLROnPlateau"])
def test_the_template_tells_a_schedule_its_metric(tmp_path, name):
    """No epoch improves by 99 %: after the second one the lr drops each time, as torch's does."""
    overrides = ["model.scheduler.patience=0", "model.scheduler.threshold=0.99"]
    overrides += ["~model.scheduler.total"] if name != "plateau" else []
    _, model = run_template(tmp_path, "adamw", name, overrides)
    assert model.lrs[::5] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
