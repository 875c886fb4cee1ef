"""Misuse of configure_optimizers is reported in one line."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from omegaconf import OmegaConf
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

import lit_optim
from lit_optim import SGD, AdamW, Muon, lr_schedulers
from lit_optim.compat import torch_schedules
from lit_optim.errors import UsageError
from lit_optim.lightning.lr_rule import linear as linear_rule
from lit_optim.param_groups import no_decay
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup, linear
from lit_optim.schedules.scheduling import schedule
from lit_optim.wrappers import Ema
from tests.lightning.modules import Data, Mixed, Plain, trainer

P = nn.Parameter(torch.ones(2, 2))
MAKE = partial(AdamW, lr=0.1)


class Own(Plain):
    """As a user writes it; `given` are the arguments after the module."""

    def __init__(self, *given, **named):
        super().__init__()
        self.given, self.named = given, named

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, *self.given, **self.named)


OPTIMIZER = [
    (AdamW([P], lr=0.1), "this instance of AdamW has no parameter of Own: give the class, as"),
    (torch.optim.SGD([P], lr=0.1), "this instance of SGD has no parameter of Own"),
    ("adamv", "unknown optimizer 'adamv'; did you mean"),
    ({"name": "adamv"}, "unknown optimizer 'adamv'; did you mean"),
    ({"lr": 0.1}, "got a dict without a name, as in"),
    ({"name": "adamw", "lrr": 0.1}, "AdamW takes no lrr; did you mean lr?"),
    (
        {"_target_": "lit_optim.AdamW"},
        "a configuration of lit_optim.AdamW: make it first, by hydra",
    ),
    (None, "got None"),
    (0.1, "got 0.1"),
    ([P], "got a list"),
    (cosine_warmup(), "got a Phases"),
    (cosine_warmup, "got the function cosine_warmup"),
    (nn.Linear(2, 2), "got a Linear"),
    (Ema, "Ema wraps an optimizer, as in lambda groups: Ema(lit_optim.AdamW(groups)), got the cl"),
    (partial(Ema, decay=0.9), "Ema wraps an optimizer, as in lambda groups: "),
    (StepLR, "got the class StepLR"),
    (lambda groups: None, "called with the param groups it gave None"),
    (lambda groups: AdamW, "called with the param groups it gave the class AdamW"),
]
SCHEDULER = [
    ("cosine_warmpu", "did you mean cosine_warmup"),
    ({"name": "cosine_warmpu"}, "did you mean cosine_warmup"),
    ({"warmup": 3}, "got None as its name"),
    ({"name": "cosine_warmup", "warmpu": 3}, "cosine_warmup takes no warmpu; did you mean warmup"),
    ({"_target_": "x.y"}, "scheduler is a configuration of x.y: make it first, by hydra"),
    (StepLR, "the class StepLR cannot be called with the optimizer alone ("),
    (StepLR(torch.optim.SGD([P], lr=0.1), 3), "this StepLR is of another optimizer than the one"),
    (lambda: cosine_warmup(), "the function <lambda> cannot be called with the optimizer alone"),
    (lambda optimizer: 3, "the function <lambda>, called with the optimizer, gave 3"),
    (AdamW, "got the class AdamW"),
    (0.1, "got 0.1"),
]
OTHERS = [
    ((cosine_warmup(), MAKE), {}, "they are in the wrong order"),
    ((cosine_warmup, AdamW), {}, "they are in the wrong order"),
    ((MAKE, None, [{"params": [P]}]), {}, "param_groups must be a function of the module"),
    ((MAKE, None, "no_decay"), {}, "or None, got 'no_decay'"),
    ((MAKE,), {"lr_rule": "linear"}, "or None, got 'linear'"),
    ((MAKE,), {"lr_rule": linear_rule}, "or None, got the function linear"),
    ((MAKE,), {"schedules": "lr"}, "schedules must map hyperparameters"),
]


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [((value,), {}, message) for value, message in OPTIMIZER]
    + [((MAKE, value), {}, message) for value, message in SCHEDULER]
    + OTHERS,
)
def test_an_argument_of_the_wrong_type_is_refused(tmp_path, given, named, message):
    with pytest.raises(UsageError) as error:
        trainer(tmp_path, max_steps=2).fit(Own(*given, **named), Data())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 2), "module must be a LightningModule, such as self, got a Linear"),
        (Plain, "module must be a LightningModule, such as self, got the class Plain"),
        (MAKE, "module must be a LightningModule, .*got a partial of the class AdamW"),
        (None, "module must be a LightningModule, .*got None"),
        (Plain(), "Plain is not attached to a trainer"),
    ],
)
def test_a_module_without_a_trainer_is_refused(module, message):
    with pytest.raises(UsageError, match=message):
        lit_optim.configure_optimizers(module, AdamW)


def test_the_mixin_says_the_same(tmp_path):
    with pytest.raises(UsageError, match="this instance of AdamW has no parameter of Mixed"):
        trainer(tmp_path, max_steps=2).fit(Mixed(2, AdamW([P])), Data())
    with pytest.raises(UsageError, match="Mixed is not attached to a trainer"):
        Mixed(2, SGD).configure_optimizers()
    without = type("Net", (lit_optim.OptimizerMixin, Plain), {})()
    with pytest.raises(UsageError, match="Net has no optimizer: its constructor sets"):
        trainer(tmp_path, max_steps=2).fit(without, Data())


@pytest.mark.parametrize(
    "given",
    [
        (AdamW,),
        ("adamw", "cosine_warmup"),
        (MAKE, None, None),
        (lambda groups: torch.optim.SGD(groups, lr=0.1), cosine_warmup()),
        (MAKE, torch_schedules.StepLR(3), no_decay),
        (MAKE, None, lambda module: [{"params": list(module.parameters())}]),
    ],
)
def test_what_is_allowed(tmp_path, given):
    module = Own(*given)
    trainer(tmp_path, max_steps=2).fit(module, Data())
    assert len(module.lrs) == 2


def used(module):
    return [lrs[0] for lrs in module.lrs]


#: The same cosine with 2 warmup updates in the ways in which people write it.
COSINES = {
    "called": cosine_warmup(warmup=2),
    "partial": partial(cosine_warmup, warmup=2),
    "mapping": {"name": "cosine_warmup", "warmup": 2},
    "node": OmegaConf.create({"name": "cosine_warmup", "warmup": 2}),
    "function": lambda optimizer: cosine_warmup(warmup=2),
    "of the optimizer": partial(lr_schedulers.cosine_warmup, warmup=2),
    "with its steps": partial(lr_schedulers.cosine_warmup, warmup=2, steps=20),
    "as Lightning takes it": {"scheduler": cosine_warmup(warmup=2), "interval": "epoch"},
}


@pytest.mark.parametrize("scheduler", COSINES.values(), ids=COSINES)
@pytest.mark.parametrize("of", [False, True])
def test_every_way_to_write_a_schedule(tmp_path, scheduler, of):
    class Part(Own):
        def configure_optimizers(self):
            part = {"of": self.net} if of else {}
            return lit_optim.configure_optimizers(self, MAKE, scheduler, **part)

    module = Part()
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, Data())
    curve = cosine_warmup(warmup=2).curve(Horizon(20))
    assert used(module) == pytest.approx([0.1 * curve(t) for t in range(20)], abs=1e-12)
    [config] = run.lr_scheduler_configs
    assert (config.interval, config.name) == ("step", "lr")


def test_a_schedule_that_is_not_called_has_its_defaults(tmp_path):
    module = Own(MAKE, cosine_warmup)
    trainer(tmp_path, max_epochs=2).fit(module, Data())
    curve = cosine_warmup().curve(Horizon(20))
    assert used(module) == pytest.approx([0.1 * curve(t) for t in range(20)], abs=1e-12)


#: torch's schedulers, each with the interval at which torch's users step it.
OF_TORCH = {
    "StepLR": (partial(StepLR, step_size=1, gamma=0.5), "epoch"),
    "of the optimizer": (lambda optimizer: StepLR(optimizer, 1, 0.5), "epoch"),
    "LambdaLR": (partial(LambdaLR, lr_lambda=lambda t: 0.5**t), "epoch"),
    "OneCycleLR": (partial(OneCycleLR, max_lr=0.1, total_steps=30), "step"),
    "at each step": ({"scheduler": partial(StepLR, step_size=3), "interval": "step"}, "step"),
    "every other": (
        {"scheduler": partial(StepLR, step_size=1), "interval": "step", "frequency": 2}, "step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_TORCH)
def test_schedulers_of_torch_are_stepped_as_lightning_does(tmp_path, name):
    """Compared with the same module without lit_optim."""
    given, interval = OF_TORCH[name]

    class Torchs(Own):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            config = dict(given) if isinstance(given, dict) else {"scheduler": given}
            config["scheduler"] = config["scheduler"](optimizer)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"interval": interval} | config,
            }

    ours, expected = Own(partial(SGD, lr=0.1), given), Torchs()
    for module in (ours, expected):
        trainer(tmp_path, max_epochs=3).fit(module, Data())
    assert used(ours) == pytest.approx(used(expected))
    assert len(set(used(ours))) > 2


def test_a_plateau_of_torch_follows_the_monitor(tmp_path):
    class Monitored(Own):
        monitor = ("train/loss", "min")

    module = Monitored(MAKE, partial(ReduceLROnPlateau, patience=0, threshold=10.0))
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, Data())
    [config] = run.lr_scheduler_configs
    assert (config.monitor, config.reduce_on_plateau) == ("train/loss", True)
    assert used(module)[-1] == pytest.approx(0.001)


class Ready(Own):
    """Makes its optimizer itself."""

    def __init__(self, make, scheduler=None, **named):
        super().__init__()
        self.make, self.scheduler, self.named = make, scheduler, named

    def configure_optimizers(self):
        optimizer = self.make(self)
        scheduler = self.scheduler
        if isinstance(scheduler, type(lambda: 0)):
            scheduler = scheduler(optimizer)
        return lit_optim.configure_optimizers(self, optimizer, scheduler, **self.named)


def test_an_optimizer_that_was_made_keeps_its_groups(tmp_path):
    def make(module):
        matrices = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim < 2]
        return AdamW([{"params": matrices}, {"params": others, "lr": 0.01}], lr=0.1)

    module = Ready(make, cosine_warmup(warmup=2))
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, Data())
    assert [len(group["params"]) for group in run.optimizers[0].param_groups] == [2, 4]
    curve = cosine_warmup(warmup=2).curve(Horizon(20))
    assert module.lrs == [pytest.approx([0.1 * curve(t), 0.01 * curve(t)]) for t in range(20)]


def test_of_a_model_or_of_its_parameters(tmp_path):
    for make in (
        lambda module: Muon(module, lr=0.1),
        lambda module: Muon(module.parameters(), lr=0.1),
        lambda module: Ema(torch.optim.SGD(module.parameters(), lr=0.1)),
    ):
        module = Ready(make, "cosine_warmup")
        trainer(tmp_path, max_epochs=1).fit(module, Data())
        assert used(module)[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("scheduler", "last"),
    [
        (lambda optimizer: StepLR(optimizer, 1), 0.01),
        (lambda optimizer: schedule(optimizer, linear(), steps=20), 0.0),
    ],
    ids=["torch", "ours"],
)
def test_an_optimizer_with_its_scheduler(tmp_path, scheduler, last):
    module = Ready(lambda module: AdamW(module.parameters(), lr=0.1), scheduler)
    trainer(tmp_path, max_epochs=2).fit(module, Data())
    assert used(module)[-1] == pytest.approx(last, abs=1e-12)


def test_a_wrong_length_of_a_ready_schedule_is_told(tmp_path, caplog):
    module = Ready(
        lambda module: AdamW(module.parameters(), lr=0.1),
        lambda optimizer: schedule(optimizer, linear(), steps=30),
    )
    trainer(tmp_path, max_epochs=2).fit(module, Data())
    assert "was made for 30 updates, but the run made 20: steps=20" in caplog.text


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"param_groups": no_decay}, "param_groups has no effect on an instance of AdamW"),
        ({"lr_rule": linear_rule()}, "lr_rule has no effect on an instance of AdamW"),
        ({"of": [P]}, "of has no effect on an instance of AdamW"),
    ],
)
def test_what_contradicts_a_ready_optimizer(tmp_path, named, message):
    module = Ready(lambda module: AdamW(module.parameters(), lr=0.1), **named)
    with pytest.raises(UsageError, match=message):
        trainer(tmp_path, max_epochs=1).fit(module, Data())


def test_frozen_parameters_in_a_ready_optimizer_that_a_callback_adds(tmp_path):
    class Thaws(BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.net[0])

        def finetune_function(self, *args):
            pass

    module = Ready(lambda module: AdamW(module.parameters(), lr=0.1))
    with pytest.raises(UsageError, match="has frozen parameters, which a BaseFinetuning callback"):
        trainer(tmp_path, max_epochs=1, callbacks=[Thaws()]).fit(module, Data())


@pytest.mark.parametrize("named", [{"schedules": {"weight_decay": "lr"}}, {"steps": 20}])
def test_what_needs_a_schedule_of_ours(tmp_path, named):
    module = Own(MAKE, partial(StepLR, step_size=1), **named)
    with pytest.raises(UsageError, match=f"{next(iter(named))} needs a schedule of lit_optim"):
        trainer(tmp_path, max_epochs=1).fit(module, Data())


def test_a_name_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "lit_optim")
    trainer(tmp_path, max_steps=1).fit(Own("adamw", "cosine_warmup"), Data())
    assert "AdamW: chosen by name, with its defaults" in caplog.text
    assert "cosine_warmup: schedule chosen by name, with its defaults" in caplog.text
