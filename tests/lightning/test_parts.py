"""Several optimizers, each for a part of a module, over its own number of updates."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn

import lit_optim
from lit_optim import SGD, AdamW, Muon, ScheduleFreeAdamW, ScheduleFreeSGD
from lit_optim.callbacks.averaged_weights import AveragedWeights
from lit_optim.errors import UsageError
from lit_optim.param_groups import by_role, layer_decay, no_decay
from lit_optim.schedules.library import linear
from lit_optim.wrappers import Ema, Wrapped
from tests.lightning.gan import BATCHES, LR, Gan, both, falling
from tests.lightning.modules import Data, Plain, attach, fit, trainer

# --- which parameters -----------------------------------------------------------------------------

OF = {
    "module": lambda self: self.generator,
    "parameters": lambda self: self.generator.parameters(),
    "named": lambda self: self.generator.named_parameters(),
    "list": lambda self: list(self.generator.parameters()),
    "modules": lambda self: [self.generator[0], self.generator[1], self.generator[3]],
    "mixed": lambda self: [self.generator[0], self.generator[1], *self.generator[3].parameters()],
}


@pytest.mark.parametrize("of", OF.values(), ids=OF)
@pytest.mark.parametrize("groups", [no_decay, layer_decay])
def test_the_groups_are_those_of_the_module(tmp_path, of, groups):
    def configure(self):
        parts = {"param_groups": groups}
        return [
            lit_optim.configure_optimizers(self, partial(AdamW, lr=LR), of=of(self), **parts),
            lit_optim.configure_optimizers(self, partial(SGD, lr=LR), of=self.critic, **parts),
        ]

    module = Gan(configure)
    run = fit(tmp_path, module, max_epochs=1)
    for optimizer, part in zip(run.optimizers, (module.generator, module.critic), strict=True):
        own = set(part.parameters())
        expected = [
            ([p for p in group["params"] if p in own], group)
            for group in groups(module)
            if not own.isdisjoint(group["params"])
        ]
        for group, (params, whole) in zip(optimizer.param_groups, expected, strict=True):
            assert group["params"] == params
            names = {p: name for name, p in module.named_parameters()}
            assert group["param_names"] == [names[p] for p in params]
            settings = whole.keys() - {"params", "param_names", "lr_mult"}
            assert {key: group[key] for key in settings} == {key: whole[key] for key in settings}


@pytest.mark.parametrize(
    "make",
    [partial(Muon, lr=LR), lambda groups: Ema(Muon(groups, lr=LR))],
    ids=["partial", "function"],
)
def test_each_network_has_a_head_of_its_own(tmp_path, make):
    module = Gan(both(make=make))
    run = fit(tmp_path, module, max_epochs=1)
    for optimizer, part in zip(run.optimizers, (module.generator, module.critic), strict=True):
        alone = by_role(no_decay(part), part)
        assert [(g["name"], g["role"]) for g in optimizer.param_groups] == [
            (g["name"], g["role"]) for g in alone
        ]
        assert [g["params"] for g in optimizer.param_groups] == [g["params"] for g in alone]
        assert "head" in {g["role"] for g in optimizer.param_groups}


def test_one_optimizer_for_several_parts(tmp_path):
    """In automatic optimization, and frozen parameters stay where they are."""
    module = attach(Plain(), of=None)
    module.net[0].weight.requires_grad_(False)
    module.configure_optimizers = lambda: lit_optim.configure_optimizers(
        module, partial(AdamW, lr=LR), linear(), of=[module.net[0], module.net[2]]
    )
    run = fit(tmp_path, module, max_steps=3)
    params = [p for group in run.optimizers[0].param_groups for p in group["params"]]
    assert set(params) == {*module.net[0].parameters(), *module.net[2].parameters()}


class Lazy(Gan):
    def __init__(self, configure):
        super().__init__(configure)
        self.generator = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 3)).double()
        self.example_input_array = torch.zeros(2, 3, dtype=torch.float64)

    def forward(self, x):
        return self.generator(x)


def test_lazy_layers_have_their_shapes_before(tmp_path):
    run = fit(tmp_path, Lazy(both()), max_epochs=1)
    names = [name for group in run.optimizers[0].param_groups for name in group["param_names"]]
    assert sorted(names) == [
        "generator.0.bias", "generator.0.weight", "generator.2.bias", "generator.2.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda self: "generator", "of must be a submodule, .*got 'generator'"),
        (lambda self: 3, "of must be a submodule, .*got 3"),
        (lambda self: ["generator"], "of must be a submodule, .*got a list"),
        (lambda self: nn.Linear(2, 2), r"a parameter of shape \[2, 2\] that is not one of Gan's"),
        (lambda self: [], "of has no trainable parameters"),
        (lambda self: self.generator.requires_grad_(False), "of has no trainable parameters"),
    ],
)
def test_other_parts_are_refused(tmp_path, of, message):
    module = Gan(lambda self: lit_optim.configure_optimizers(self, SGD, of=of(self)))
    with pytest.raises(UsageError, match=message) as error:
        fit(tmp_path, module, max_epochs=1)
    assert "\n" not in str(error.value)


def test_parameters_of_no_optimizer_and_of_two_are_told(tmp_path, messages):
    def configure(self):
        make = partial(SGD, lr=LR)
        return [
            lit_optim.configure_optimizers(self, make, of=self.generator[0]),
            lit_optim.configure_optimizers(self, make, of=[self.critic, self.generator[0].bias]),
        ]

    fit(tmp_path, Gan(configure), max_epochs=1)
    assert messages() == [
        "no optimizer updates the parameters generator.1.weight, generator.1.bias, "
        "generator.3.weight, generator.3.bias: not trained",
        "several optimizers have the parameter generator.0.bias: each of them updates it",
    ]


def test_nothing_is_said_if_each_has_one(tmp_path, messages):
    fit(tmp_path, Gan(both()), max_epochs=1)
    assert messages() == []


# --- fine-tuning ----------------------------------------------------------------------------------


class Thaws(BaseFinetuning):
    """Unfreezes the first layer of a part, for the optimizer of that part."""

    def __init__(self, part, place, epoch):
        super().__init__()
        self.part, self.place, self.epoch = part, place, epoch

    @property
    def state_key(self):
        return f"Thaws.{self.part}"

    def layer(self, module):
        return getattr(module, self.part)[0]

    def freeze_before_training(self, pl_module):
        self.freeze(self.layer(pl_module))

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.epoch and optimizer is pl_module.trainer.optimizers[self.place]:
            self.unfreeze_and_add_param_group(self.layer(pl_module), optimizer, lr=LR / 4)


def test_fine_tuning_of_two_parts(tmp_path):
    """Two optimizers, two callbacks: what each adds has its names, and the lr that it brings."""
    module = Gan(both(schedule=lambda: None))
    callbacks = [Thaws("generator", 0, 1), Thaws("critic", 1, 2)]
    run = fit(tmp_path, module, callbacks, max_epochs=3)
    for optimizer, part in zip(run.optimizers, ("generator", "critic"), strict=True):
        groups = optimizer.param_groups
        assert [group["lr"] for group in groups] == [LR, LR, LR / 4]
        assert groups[-1]["param_names"] == [f"{part}.0.weight", f"{part}.0.bias"]
        assert groups[-1]["initial_lr"] == LR / 4


# --- fits again -----------------------------------------------------------------------------------


def test_optimizers_that_are_kept_between_fits(tmp_path):
    """The module makes its two averages once: both are swapped in each fit of the trainer."""

    class Keeps(Gan):
        kept = ()

        def configure_optimizers(self):
            parts = (self.generator, self.critic)
            self.kept = self.kept or [Ema(SGD(part.parameters(), lr=LR)) for part in parts]
            return [
                lit_optim.configure_optimizers(self, optimizer, linear()) for optimizer in self.kept
            ]

    module = Keeps(None)
    run = fit(tmp_path, module, max_epochs=1)
    run.fit_loop.max_epochs = 3
    run.fit(module, Data(BATCHES))
    [averaged] = [c for c in run.callbacks if isinstance(c, AveragedWeights)]
    assert averaged.optimizers == module.kept
    assert not any(optimizer.train_mode for optimizer in module.kept)
    assert module.optimizers()[0].param_groups[0]["lr"] == 0
    assert module.used[0][:10] == falling(10)
    assert module.used[0][10:] == falling(20)


def test_a_fit_after_one_that_failed(tmp_path, messages):
    """The trainer is the same; the optimizer that the first attempt made is no part of it."""
    module = Gan(both({}, {"of": "critic"}, make=lambda groups: Ema(SGD(groups, lr=LR))))
    run = trainer(tmp_path, max_epochs=1)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'of'"):
        run.fit(module, Data(BATCHES))
    module.configure = both(make=lambda groups: Ema(SGD(groups, lr=LR)))
    run.fit(module, Data(BATCHES))
    assert module.used == (falling(10), falling(10))
    [averaged] = [c for c in run.callbacks if isinstance(c, AveragedWeights)]
    assert averaged.optimizers == run.optimizers
    assert messages() == []


# --- averages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "makes",
    [
        (lambda groups: Ema(SGD(groups, lr=LR), decay=0.5), partial(ScheduleFreeSGD, lr=LR)),
        (partial(ScheduleFreeAdamW, lr=LR), Wrapped(partial(AdamW, lr=LR), Ema)),
    ],
    ids=["ema and schedule-free", "schedule-free and ema"],
)  # fmt: skip
def test_two_averages_of_parts_resume(tmp_path, makes):
    """In validation, checkpoints and a resumed run, each part has its average."""

    def module():
        def configure(self):
            parts = zip(makes, (self.generator, self.critic), strict=True)
            return [lit_optim.configure_optimizers(self, make, of=part) for make, part in parts]

        return Gan(configure)

    whole, half, resumed = module(), module(), module()
    fit(tmp_path, whole, max_epochs=4)
    first = fit(tmp_path, half, max_epochs=2)
    first.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    for name, p in half.named_parameters():  # after fit the model holds the averages
        assert torch.equal(saved["state_dict"][name], p)
        assert not torch.equal(saved["training_weights"][name], p)
    again = trainer(tmp_path, max_epochs=4)
    again.fit(resumed, Data(BATCHES), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
