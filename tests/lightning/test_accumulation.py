"""A schedule is over the updates of a run whose accumulation changes, by whatever changes it."""

from __future__ import annotations

import math

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lit_optim.errors import UsageError
from lit_optim.schedules.library import linear
from tests.lightning.modules import Plain, attach, fit

BATCHES = 10  # of an epoch


@pytest.mark.parametrize("run", [{"max_epochs": 4}, {"max_epochs": 9, "max_steps": 17}], ids=str)
@pytest.mark.parametrize(
    "accumulated", [{0: 3}, {0: 3, 2: 1}, {1: 2}, {0: 4, 1: 3, 3: 10}], ids=str
)
def test_accumulation_that_changes_is_counted(tmp_path, messages, accumulated, run):
    module = attach(Plain(), scheduler=linear())
    callback = GradientAccumulationScheduler(dict(accumulated))
    made = fit(tmp_path, module, [callback], **run)
    updates, factor = 0, 1
    for epoch in range(run["max_epochs"]):
        factor = accumulated.get(epoch, factor)
        updates += math.ceil(BATCHES / factor)
    assert made.global_step == min(updates, run.get("max_steps", updates))
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
