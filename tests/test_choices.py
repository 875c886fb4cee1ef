"""Every optimizer and every schedule that has a YAML file, in a real run and in every combination.

Each trains for 20 updates under Lightning as it does for a user. Optimizers are compared with a
loop written by hand around torch's optimizer of that name, schedules with their counterparts in
torch, transformers or a paper.
"""

from __future__ import annotations

import copy
import math
from functools import cache

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import lit_optim
from lit_optim.config.composing import compose_config
from lit_optim.config.places import groups, listed_choices
from lit_optim.config.targets import build, make_factory
from lit_optim.optimizers.base.options import OPTIONS
from lit_optim.param_groups import by_role, no_decay
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from tests.optimizers.running import class_of
from tests.sampling import sample
from tests.schedules.all_counterparts import first_row

OPTIMIZERS = sorted(listed_choices("optimizer"))
SCHEDULES = sorted(set(groups()["scheduler"]) - {"none"})
STEPS, PER_EPOCH, WARMUP = 20, 5, 4
#: By default an optimizer is paired with every third schedule, the next one with the next third.
PARTS = 3
#: The lr that counterparts with absolute lrs, such as CyclicLR, expect.
PEAK = 0.01
#: torch's class under another name than ours, or with arguments that ours has fixed
ELSEWHERE = {
    "momentum": lambda groups, **hyper: torch.optim.SGD(groups, **hyper),
    "nag": lambda groups, **hyper: torch.optim.SGD(groups, nesterov=True, **hyper),
    "muon": None,  # torch's takes matrices only, in bfloat16
    "muon_torch": lambda groups, **hyper: torch.optim.Muon(groups, **hyper),
    "lbfgs": lambda groups, **hyper: torch.optim.LBFGS(
        [p for group in groups for p in group["params"]], **hyper
    ),
    "sparse_adam": None,  # torch's takes no dense gradients; where all are non-zero it is Adam
}
TORCHS = {name.lower(): value for name, value in vars(torch.optim).items()}
#: respond to metrics, and are compared in tests/callbacks/test_observer.py
FOLLOWERS = {"plateau", "greedy", "reduce_lr_on_plateau", "ReduceLROnPlateau"}


class Net(pl.LightningModule):
    """A small regression in float64; without biases all parameters are matrices."""

    def __init__(self, bias: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 8, bias=bias), nn.Tanh(), nn.Linear(8, 2, bias=bias)
        ).double()
        self.losses: list[float] = []

    def loss(self, batch):
        x, y = batch
        return (self.net(x) - y).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))


def batches():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(PER_EPOCH * 16, 6, dtype=torch.float64, generator=generator)
    y = torch.stack([x.sum(1).sin(), x[:, 0] * x[:, 1]], 1)
    return DataLoader(TensorDataset(x, y), batch_size=16)


def whole_loss(model):
    with torch.no_grad():
        return sum(model.loss(batch).item() for batch in batches())


#: whole Newton steps on small batches diverge
CAREFUL = {"lbfgs": ["optimizer.lr=0.05", "optimizer.max_iter=4"]}


def choices(optimizer, scheduler):
    chosen = [f"optimizer={optimizer}", f"scheduler={scheduler}", "preset=none"]
    cfg = compose_config(chosen + CAREFUL.get(optimizer, []))
    cfg.monitor, cfg.mode = "val/loss", "min"
    return cfg


def as_written(optimizer, scheduler):
    """The two YAML files alone: composing a whole run for each of so many pairs would be slow."""
    files = {"optimizer": optimizer, "scheduler": scheduler}
    nodes = {group: OmegaConf.load(groups()[group][name]) for group, name in files.items()}
    nodes["optimizer"].pop("defaults", None)  # what it chooses of other groups
    return OmegaConf.create({"monitor": "val/loss", "mode": "min", "seed": 0} | nodes)


def trained(cfg, model):
    return fit(model, make_factory(cfg.optimizer), build(cfg.scheduler))


def fit(model, optimizer, scheduler):
    model.configure_optimizers = lambda: lit_optim.configure_optimizers(model, optimizer, scheduler)
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, batches(), batches())
    return model


def by_hand(name, cfg, model):
    """The same in plain torch: its optimizer, LambdaLR, and a loop."""
    hyper = OmegaConf.to_container(cfg.optimizer)
    hyper = {key: v for key, v in hyper.items() if key not in ("_target_", *OPTIONS)}
    hyper = {key: tuple(v) if isinstance(v, list) else v for key, v in hyper.items()}
    given = [{k: v for k, v in g.items() if k != "param_names"} for g in no_decay(model)]
    if name == "adafactor_hf":
        from transformers.optimization import Adafactor

        optimizer = Adafactor(given, **hyper)
    elif (reference := ELSEWHERE.get(name, TORCHS.get(name))) is None:
        # torch has none: the float64 oracles stand for it, and this loop for Lightning's
        optimizer = make_factory(cfg.optimizer)(grouped(name, model))
    else:
        optimizer = reference(given, **hyper)
    curve = build(cfg.scheduler).curve(Horizon(STEPS, PER_EPOCH, 16))
    relative = name == "adafactor_hf" and hyper["lr"] is None
    if relative:  # transformers' own step size knows no schedule
        scheduler = None
    else:
        lrs = [group["lr"] for group in optimizer.param_groups]
        scheduler = LambdaLR(optimizer, [lambda t, lr=lr: curve(t, lr) / lr for lr in lrs])
    step = 0
    while step < STEPS:
        for batch in batches():
            for key, other in curve.hyperparameter_curves.items():
                for group in optimizer.param_groups:
                    group["betas"] = (other(step), group["betas"][1])
                    assert key == "momentum"

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = model.loss(batch)
                loss.backward()
                return loss

            if name == "lbfgs":
                optimizer.step(closure)
            else:  # transformers' Adafactor calls a closure without gradients
                closure()
                optimizer.step()
            if scheduler:
                scheduler.step()
            step += 1
    if hasattr(optimizer, "eval"):
        optimizer.eval()  # what a trainer leaves in the model
    return model


@cache
def counterpart_lrs(name):
    """The first three lrs that the counterpart of a schedule sets on torch's SGD."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.5)
    scheduler = first_row(name, STEPS).theirs(optimizer, STEPS, WARMUP)
    lrs = []
    for _ in range(3):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["params"][0].grad = torch.zeros(1)
        optimizer.step()
        scheduler.step()
    return tuple(lrs)


def grouped(name, model):
    """As `configure_optimizers` divides them."""
    needs = getattr(class_of(name), "requirements", ())
    return by_role(no_decay(model), model) if "roles" in needs else no_decay(model)


def same(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore")
def test_every_optimizer_trains(name):
    schedule = "constant" if name == "adafactor_hf" else "cosine_warmup"
    cfg = choices(name, schedule)
    model = Net(bias=name != "muon_torch")
    twin, before = copy.deepcopy(model), whole_loss(model)
    trained(cfg, model)
    assert whole_loss(model) < before
    torch.set_default_dtype(torch.float64)  # torch keeps some numbers of its state in this
    try:
        by_hand(name, cfg, twin)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(model, twin) <= 1e-10


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore")
def test_every_schedule_trains(name):
    """With its own defaults."""
    model = Net()
    before = whole_loss(model)
    trained(choices("adamw", name), model)
    assert whole_loss(model) < before


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - FOLLOWERS))
@pytest.mark.filterwarnings("ignore")
def test_every_schedule_trains_as_its_counterpart(name):
    """Their scheduler on torch's AdamW, in a loop written by hand."""
    row = first_row(name, STEPS)
    model = Net()
    twin = copy.deepcopy(model)
    fit(model, lambda groups: lit_optim.AdamW(groups, lr=PEAK), row.ours(STEPS, WARMUP))
    given = [{k: v for k, v in g.items() if k != "param_names"} for g in no_decay(twin)]
    optimizer = torch.optim.AdamW(given, lr=PEAK)
    scheduler = row.theirs(optimizer, STEPS, WARMUP)
    for _ in range(STEPS // PER_EPOCH):
        for batch in batches():
            optimizer.zero_grad()
            twin.loss(batch).backward()
            optimizer.step()
            scheduler.step()
    assert same(model, twin) <= 1e-10


@pytest.mark.parametrize("part", sample(range(PARTS), 1))
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore")
def test_every_pair_steps(name, part):
    """Each schedule sets the lr of each optimizer to the one that its counterpart sets on SGD."""
    for schedule in SCHEDULES[(OPTIMIZERS.index(name) + part) % PARTS :: PARTS]:
        cfg = as_written(name, schedule)
        model = Net(bias=name != "muon_torch")
        optimizer = make_factory(cfg.optimizer)(grouped(name, model))
        for group in optimizer.param_groups:
            group["lr"] = PEAK
        if schedule in FOLLOWERS:
            expected, ours = (PEAK, PEAK, PEAK), build(cfg.scheduler)
        else:
            expected = counterpart_lrs(schedule)
            ours = first_row(schedule, STEPS).ours(STEPS, WARMUP)
        horizon = Horizon(ours.total or STEPS, PER_EPOCH, 16)
        scheduler = ScheduledLR(optimizer, ours.curve(horizon))
        batch = next(iter(batches()))

        def closure(model=model, optimizer=optimizer, batch=batch):
            optimizer.zero_grad()
            loss = model.loss(batch)
            loss.backward()
            return loss

        before = [p.detach().clone() for p in model.parameters()]
        for lr in expected:
            for group in optimizer.param_groups:
                assert group["lr"] == pytest.approx(lr, abs=1e-12), schedule
            optimizer.step(closure)
            scheduler.step()
        assert all(math.isfinite(p.sum()) for p in model.parameters()), schedule
        assert any(
            not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)
        ), schedule
