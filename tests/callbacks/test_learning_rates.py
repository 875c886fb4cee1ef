"""`plan/<group>`, written before the first update, and `lr/<group>`, logged while training."""

from __future__ import annotations

import logging
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import ChainedScheduler, ExponentialLR, StepLR

from lit_optim.callbacks.learning_rates import MARKS, POINTS, LearningRates, plan_steps
from lit_optim.optimizers.sgd import SGD
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.formula_schedules import multiplicative
from lit_optim.schedules.library import cosine_min_lr, one_cycle, wsd
from lit_optim.schedules.metric_schedules import plateau
from lit_optim.schedules.phase_parser import phases
from tests.events import scalars
from tests.lightning.modules import Data, Plain, attach, trainer

LR = 0.1


def groups(module):
    """Two lrs, so that the plan of one is not the plan of the other."""
    return [
        {"params": [*module.net[0].parameters()], "lr": LR, "name": "body"},
        {"params": [*module.net[2].parameters()], "lr": LR / 4, "name": "head"},
    ]


def fit(path, schedule, none_every=0, ckpt=None, callbacks=(), schedules=None, **limits):
    module = Plain(none_every=none_every)
    make = partial(SGD, lr=LR, weight_decay=0.2)
    attach(module, make, schedule, groups, schedules=schedules)
    t = trainer(
        path,
        logger=TensorBoardLogger(path, name="", version=""),
        callbacks=[LearningRates(), *callbacks],
        **({"log_every_n_steps": 1, "enable_checkpointing": bool(callbacks)} | limits),
    )
    t.fit(module, Data(), ckpt_path=ckpt)
    return module, scalars(path)


def assert_planned(curves, schedule, total, first=0, last=None):
    """The plan is the schedule's closed form, and what was logged lies on it."""
    curve = schedule.curve(Horizon(total))
    for name, lr in (("body", LR), ("head", LR / 4)):
        plan, logged = curves[f"plan/{name}"], curves[f"lr/{name}"]
        assert list(plan) == list(range(first, total))
        assert plan == {t: pytest.approx(curve(t, lr), rel=1e-6) for t in plan}  # float32
        assert set(logged) <= set(plan)
        assert logged == {t: plan[t] for t in logged}  # to the bit
        assert max(logged) == (total - 1 if last is None else last)


@pytest.mark.parametrize(
    "schedule",
    [wsd(), cosine_min_lr(min_lr=0.01), one_cycle(), phases()],
    ids=["wsd", "cosine_min_lr", "one_cycle", "phases"],
)
def test_with_accumulation(tmp_path, schedule):
    """10 batches an epoch in fours: 3 updates, the last of them of two batches."""
    module, curves = fit(tmp_path, schedule, accumulate_grad_batches=4, max_epochs=4)
    assert len(module.lrs) == 12
    assert_planned(curves, schedule, 12)
    assert [curves["lr/body"][t] for t in range(12)] == pytest.approx([x[0] for x in module.lrs])


def test_scheduled_hyperparameters_are_planned_and_logged(tmp_path):
    given = {"weight_decay": [{"shape": "linear", "from": 0.2, "to": 0.1}]}
    _, curves = fit(tmp_path, wsd(), schedules=given, max_steps=20, none_every=4)
    assert_planned(curves, wsd(), 20, last=13)
    for name in ("body", "head"):
        plan, logged = curves[f"plan/weight_decay/{name}"], curves[f"weight_decay/{name}"]
        assert plan == {t: pytest.approx(0.2 - 0.1 * (t + 1) / 20) for t in range(20)}
        assert logged == {t: plan[t] for t in range(14)}


def test_with_a_skipped_step(tmp_path):
    """A step without a loss is no update: the next one has the lr that was planned for it."""
    _, curves = fit(tmp_path, wsd(), none_every=4, max_steps=20)
    updates = 20 - 6  # of the 10 batches of an epoch 0, 4 and 8
    assert_planned(curves, wsd(), 20, last=updates - 1)
    assert len(curves["lr/body"]) == updates


def test_first_and_last_are_logged_however_short_the_run(tmp_path):
    _, curves = fit(tmp_path, cosine_min_lr(), max_steps=7, log_every_n_steps=50)
    assert list(curves["lr/body"]) == [0, 6]
    assert list(curves["plan/body"]) == list(range(7))


def test_after_a_resume(tmp_path):
    """Of what is left, from the schedule that went on."""
    path = tmp_path / "kept"
    kept = ModelCheckpoint(path, every_n_train_steps=7, save_top_k=-1, filename="{step}")
    fit(tmp_path / "first", wsd(), max_steps=20, callbacks=[kept])
    _, curves = fit(tmp_path / "second", wsd(), max_steps=20, ckpt=path / "step=7.ckpt")
    assert_planned(curves, wsd(), 20, first=7)


def test_what_cannot_be_known_has_no_plan(tmp_path):
    for index, schedule in enumerate(
        [None, multiplicative("0.9"), plateau(monitor="x", mode="min", every=99)]
    ):
        path = tmp_path / str(index)
        module = attach(Logs(), partial(SGD, lr=LR), schedule)
        logger = TensorBoardLogger(path, name="", version="")
        trainer(path, logger=logger, callbacks=[LearningRates()], max_steps=3).fit(module, Data())
        assert not any(tag.startswith("plan/") for tag in scalars(path))
        assert any(tag.startswith("lr/") for tag in scalars(path))


class Logs(Plain):
    def training_step(self, batch, batch_idx):
        self.log("x", 1.0)
        return super().training_step(batch, batch_idx)


@settings(deadline=None)
@given(
    first=st.integers(0, 10**5),
    more=st.integers(1, 2 * 10**5),
    every=st.sampled_from([0, 1, 7, 50, 1000]),
    marks=st.lists(st.integers(0, 10**6), max_size=100),
)
def test_a_plan_is_short(first, more, every, marks):
    """It has the first and the last update, and where it can what will be logged."""
    total = first + more
    steps = plan_steps(first, total, every, sorted(set(marks)))
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (first, total - 1)
    assert len(steps) <= POINTS + MARKS + 3
    logged = [t for t in range(total) if every and (t + 1) % every == 0 and t >= first]
    if len(logged) <= POINTS:
        assert set(logged) <= set(steps)
    else:
        assert set(steps[1:-1]) <= set(logged) | set(marks)


class Grows(Data):
    """Twice as many batches from the second epoch on."""

    def train_dataloader(self):
        self.batches = 10 if self.trainer.current_epoch == 0 else 20
        return super().train_dataloader()


def test_a_changed_epoch_length_is_warned_of_once(tmp_path, caplog):
    module = attach(Plain(), scheduler=cosine_min_lr())
    run = trainer(
        tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1, callbacks=[LearningRates()]
    )
    with caplog.at_level(logging.WARNING, "lit_optim"):
        run.fit(module, Grows())
    lrs = [lrs[0] for lrs in module.lrs]
    assert len(lrs) == 50
    assert lrs[29:] == [lrs[29]] * 21  # held beyond the end
    assert [line for line in caplog.messages if "batches" in line] == [
        "an epoch has 20 batches now, and had 10: the run has 60 updates, but its schedule was "
        "made for 30"
    ]


class Stops(Callback):
    def on_train_batch_end(self, trainer, *others):
        if trainer.global_step == 7:
            trainer.should_stop = True


class Replaces(Callback):
    """As Lightning's StochasticWeightAveraging does, with any of torch's schedulers."""

    def __init__(self, make):
        self.make = make

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            other = self.make(trainer.optimizers[0])
            trainer.lr_scheduler_configs[0] = LRSchedulerConfig(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1),
        lambda: Replaces(lambda o: ExponentialLR(o, 0.9)),
        lambda: Replaces(lambda o: ChainedScheduler([ExponentialLR(o, 0.9), StepLR(o, 3)])),
        Stops,
    ],
    ids=["SWA", "exponential", "chain", "stopped"],
)
def test_a_schedule_that_should_not_end_with_the_run_is_not_warned_of(make, tmp_path, caplog):
    run = trainer(tmp_path, max_epochs=3, callbacks=[make()])
    with caplog.at_level(logging.WARNING, "lit_optim"):
        run.fit(attach(Plain(), scheduler=cosine_min_lr()), Data())
    assert not [line for line in caplog.messages if "was made for" in line]
