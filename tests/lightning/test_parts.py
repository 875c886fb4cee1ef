"""Several optimizers, each for a part of a module, over its own number of updates."""

from __future__ import annotations

import logging
import math
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

import lit_optim
from lit_optim import SGD, AdamW, Muon, ScheduleFreeAdamW, ScheduleFreeSGD
from lit_optim.callbacks.averaged_weights import AveragedWeights
from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.schedule_lengths import EARLY_BATCHES
from lit_optim.errors import UsageError
from lit_optim.param_groups import by_role, layer_decay, no_decay
from lit_optim.schedules.library import cosine, linear
from lit_optim.wrappers import Ema, Wrapped
from tests.events import scalars
from tests.lightning.modules import Data, Plain, attach, trainer

LR, BATCHES = 0.1, 10


def network(width):
    return nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))


class Gan(LightningModule):
    """A critic makes `critic_steps` updates per batch, a generator one in every `every` batches."""

    def __init__(self, configure, every=1, critic_steps=1):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator, self.critic = network(4).double(), network(5).double()
        self.configure, self.every, self.critic_steps = configure, every, critic_steps
        self.batches, self.used = 0, ([], [])

    def configure_optimizers(self):
        return self.configure(self)

    def training_step(self, batch, batch_idx):
        generator, critic = self.optimizers()
        for _ in range(self.critic_steps):
            self.step(1, critic, self.critic(self.generator(batch[0]).detach()).square().mean())
        self.batches += 1
        if self.batches % self.every == 0:
            self.step(0, generator, (self.critic(self.generator(batch[0])) - 1).square().mean())

    def step(self, place, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.used[place].append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.generator(batch[0]).square().mean())


def both(generator=None, critic=None, schedule=linear, make=None):
    """Configure an optimizer for each; the arguments are those of `configure_optimizers`."""

    make = make or partial(SGD, lr=LR)

    def configure(self):
        parts = [(self.generator, generator or {}), (self.critic, critic or {})]
        return [
            lit_optim.configure_optimizers(self, make, schedule(), of=of, **more)
            for of, more in parts
        ]

    return configure


def falling(steps):
    """`linear` by its formula: straight down to 0 at the last update."""
    return pytest.approx([LR * (steps - 1 - t) / steps for t in range(steps)], abs=1e-15)


def fit(tmp_path, module, callbacks=(), **run):
    made = trainer(tmp_path, callbacks=list(callbacks), **run)
    made.fit(module, Data(BATCHES))
    return made


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.WARNING, "lit_optim")
    return lambda: [record.getMessage() for record in caplog.records]


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


# --- how many updates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "critic_steps", "generator", "critic", "run", "made"),
    [
        (1, 1, {}, {}, {"max_steps": 40}, (20, 20)),
        (1, 1, {}, {}, {"max_epochs": 3}, (30, 30)),
        (5, 1, {"updates_per_batch": 1 / 5}, {}, {"max_epochs": 3}, (6, 30)),
        (5, 1, {"updates_per_batch": 0.2}, {}, {"max_steps": 36}, (6, 30)),
        (5, 1, {"updates_per_batch": 0.2}, {}, {"max_steps": 36, "max_epochs": 9}, (6, 30)),
        (5, 1, {"updates_per_batch": 0.2}, {}, {"max_steps": 99, "max_epochs": 3}, (6, 30)),
        (1, 5, {}, {"updates_per_batch": 5}, {"max_steps": 60}, (10, 50)),
        (1, 5, {}, {"updates_per_batch": 5}, {"max_epochs": 2}, (20, 100)),
        (3, 2, {"updates_per_batch": 1 / 3}, {"updates_per_batch": 2}, {"max_epochs": 3}, (10, 60)),
        (5, 1, {"steps": 6}, {}, {"max_steps": 36}, (6, 30)),
        (5, 1, {"steps": 6}, {"steps": 30}, {"max_epochs": 3}, (6, 30)),
        # both accumulate four batches
        (4, 1, {"updates_per_batch": 1 / 4}, {}, {"max_epochs": 2}, (5, 20)),
    ],
)
def test_each_schedule_covers_the_updates_of_its_optimizer(
    tmp_path, messages, every, critic_steps, generator, critic, run, made
):
    module = Gan(both(generator, critic), every, critic_steps)
    fit(tmp_path, module, **run)
    assert module.used == (falling(made[0]), falling(made[1]))
    assert messages() == []


def test_an_epoch_has_the_updates_of_the_optimizer(tmp_path):
    """A warmup of an epoch of 10 batches are 2 updates of an optimizer with one in 5 batches."""
    schedule = partial(linear, warmup="1 epoch")
    module = Gan(both({"updates_per_batch": 1 / 5}, schedule=schedule), every=5)
    fit(tmp_path, module, max_epochs=3)
    assert module.used[0] == pytest.approx(
        [LR / 2, LR, 0.75 * LR, 0.5 * LR, 0.25 * LR, 0], abs=1e-9
    )
    assert module.used[1][:10] == pytest.approx([LR * (t + 1) / 10 for t in range(10)])


def test_what_is_not_said_is_warned_of(tmp_path, messages):
    """Early in a long run, and at its end."""
    module = Gan(both(), every=5)
    fit(tmp_path, module, max_epochs=2 * EARLY_BATCHES // BATCHES)
    early, late = messages()
    assert early.startswith(
        f"SGD has made {EARLY_BATCHES // 5} updates in {EARLY_BATCHES} batches, so the run will "
        f"make about {2 * EARLY_BATCHES // 5}, but its schedule was made for {2 * EARLY_BATCHES}: "
        "updates_per_batch or steps"
    )
    assert late == (
        f"the schedule of SGD was made for {2 * EARLY_BATCHES} updates, but the run made "
        f"{2 * EARLY_BATCHES // 5}: total={2 * EARLY_BATCHES // 5} lets it end with the "
        "run"
    )


def test_wrong_steps_are_warned_of(tmp_path, messages):
    fit(tmp_path, Gan(both({"steps": 7}), every=5), max_epochs=3)
    assert messages() == [
        "the schedule of SGD was made for 7 updates, but the run made 6: steps=6 lets it end with "
        "the run"
    ]


def test_steps_where_the_run_has_no_known_length(tmp_path):
    module = attach(Plain(), scheduler=cosine(), steps=20)
    trainer(tmp_path, max_epochs=-1, max_time="00:00:05:00", callbacks=[Stop(20)]).fit(
        module, Data(BATCHES)
    )
    expected = [LR * (1 + math.cos(math.pi * (t + 1) / 20)) / 2 for t in range(20)]
    assert [lrs[0] for lrs in module.lrs] == pytest.approx(expected)


class Stop(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = trainer.global_step == self.steps


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of updates > 0, got 0"),
        ({"steps": 2.5}, "steps must be a whole number of updates > 0, got 2.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"updates_per_batch": 0}, "updates_per_batch must be a number > 0, such as 1/5, got 0"),
        ({"updates_per_batch": "1/5"}, "updates_per_batch must be a number > 0"),
        ({"updates_per_batch": math.inf}, "updates_per_batch must be a number > 0"),
        ({"updates_per_batch": 2}, "updates_per_batch=2 is for manual optimization"),
        (
            {"steps": 9, "scheduler": cosine(total=8)},
            "steps=9 and total=8 of the schedule are both",
        ),
    ],
)
def test_other_numbers_are_refused(tmp_path, parts, message):
    module = attach(Plain(), **({"scheduler": cosine()} | parts))
    with pytest.raises(UsageError, match=message):
        fit(tmp_path, module, max_epochs=1)


def test_the_plan_is_over_the_updates_of_the_optimizer(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    module = Gan(both({"updates_per_batch": 1 / 5}), every=5)
    run = {"logger": logger, "log_every_n_steps": 1, "max_epochs": 2}
    fit(tmp_path, module, [LearningRates()], **run)
    curves = scalars(tmp_path)
    for place, made in ((0, 4), (1, 20)):
        for tag in ("plan", "lr"):
            values = list(curves[f"{tag}/SGD{place}/decay"].values())
            expected = [LR * (made - 1 - t) / made for t in range(made)]
            assert values == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_two_optimizers_resume_longer(tmp_path):
    """In Python; each schedule goes on at its update."""
    path = tmp_path / "first.ckpt"
    fit(tmp_path, Gan(both()), max_epochs=1).save_checkpoint(path)
    extended = Gan(both({"horizon": "extend"}, {"horizon": "extend"}))
    trainer(tmp_path, max_epochs=2).fit(extended, Data(BATCHES), ckpt_path=path, weights_only=True)
    for used in extended.used:
        assert used == pytest.approx([LR * (19 - t) / 20 for t in range(10, 20)], abs=1e-15)


# --- accumulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [{"max_epochs": 4}, {"max_epochs": 9, "max_steps": 17}], ids=str)
@pytest.mark.parametrize(
    "accumulated", [{0: 3}, {0: 3, 2: 1}, {1: 2}, {0: 4, 1: 3, 3: 10}], ids=str
)
def test_accumulation_that_changes_is_counted(tmp_path, messages, accumulated, run):
    module = attach(Plain(), scheduler=linear())
    callback = GradientAccumulationScheduler(dict(accumulated))
    made = fit(tmp_path, module, [callback], **run)
    [config] = made.lr_scheduler_configs
    assert config.scheduler.last_epoch == config.scheduler.curve.total == made.global_step
    assert module.optimizers().param_groups[0]["lr"] == 0
    assert messages() == []


class Halves(GradientAccumulationScheduler):
    """A user's own, by Lightning's method."""

    def get_accumulate_grad_batches(self, epoch):
        return 5 if epoch % 2 else 2


class Sets(Callback):
    """Sets it in the trainer: in one of its hooks."""

    def __init__(self, hook, batches=5):
        setattr(self, hook, lambda trainer, *_, **__: self.set(trainer, batches))

    @staticmethod
    def set(trainer, batches):
        trainer.accumulate_grad_batches = batches


@pytest.mark.parametrize(
    "callback", [lambda: Halves({0: 2, 1: 5}), lambda: Sets("setup"), lambda: Sets("on_fit_start")],
    ids=["subclass", "setup", "on_fit_start"],
)  # fmt: skip
def test_a_callback_of_ones_own_that_accumulates(tmp_path, messages, callback):
    module = attach(Plain(), scheduler=linear())
    fit(tmp_path, module, [callback()], max_epochs=4)
    assert module.optimizers().param_groups[0]["lr"] == 0
    assert messages() == []


def test_a_callback_that_changes_it_on_the_way_is_warned_of(tmp_path, messages):
    """What it does cannot be known; what is known then is said at once, and at the end."""
    module = attach(Plain(), scheduler=linear())
    fit(tmp_path, module, [Sets("on_train_epoch_start")], max_epochs=3)
    first, end = messages()
    assert first == (
        "accumulate_grad_batches is 5 now, and was 1: the run will make 6 updates, but the "
        "schedule of AdamW was made for 30; total sets its length"
    )
    assert "was made for 30 updates, but the run made 6: total=6" in end


def test_units_of_epochs_under_changing_accumulation_are_refused(tmp_path):
    module = attach(Plain(), scheduler=linear(warmup="1 epoch"))
    with pytest.raises(UsageError, match="epochs differ in updates"):
        fit(tmp_path, module, [GradientAccumulationScheduler({0: 3, 2: 1})], max_epochs=4)


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
