"""Fits again and longer runs: a schedule goes on, or is over the updates that are left."""

from __future__ import annotations

from functools import partial

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lit_optim import SGD
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.resumable import Resumable
from lit_optim.errors import UsageError
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import constant_warmup, linear
from lit_optim.training.lengths import run_length
from tests.events import scalars
from tests.lightning.manual import LR, Net, ema, fit, planned, trainer
from tests.lightning.modules import Data


# in automatic optimization Lightning takes one optimizer
@pytest.mark.parametrize(("automatic", "makes"), [(True, 1), (False, 1), (False, 2)])
@pytest.mark.parametrize("by", ["steps", "epochs", "both"])
def test_a_trainer_that_fits_again(by, makes, automatic, tmp_path):
    """The second schedule is over the updates that are left, from its beginning to its end."""
    module = Net(*[partial(SGD, lr=LR)] * makes)
    if automatic:
        module.automatic_optimization = True
        module.training_step = lambda batch, batch_idx: module.nets[0](batch[0]).square().mean()
        module.on_before_optimizer_step = lambda optimizer: module.used[0].append(
            optimizer.param_groups[0]["lr"]
        )
    first = {"max_steps": 20 * makes} if by == "steps" else {"max_epochs": 2}
    logger = TensorBoardLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, [LearningRates()], **first, logger=logger, log_every_n_steps=1)
    run.fit(module, Data())
    assert module.used == [planned(module.schedule, 20)] * makes
    if by == "steps":
        run.fit_loop.epoch_loop.max_steps = 50 * makes
    else:
        run.fit_loop.max_epochs = 5
    if by == "both":
        run.fit_loop.epoch_loop.max_steps = 1000
    run.fit(module, Data())
    assert module.used == [planned(module.schedule, 20) + planned(module.schedule, 30)] * makes
    tag = "lr/all" if makes == 1 else "lr/SGD0/all"
    assert scalars(tmp_path)[tag] == pytest.approx(
        dict(enumerate(module.used[0])), rel=1e-6, abs=1e-9
    )


def test_a_module_is_fit_again_by_another_trainer(tmp_path):
    module = Net(ema(SGD))
    for _ in range(2):
        fit(tmp_path, module, max_steps=20)
    assert module.used == [planned(module.schedule, 20) * 2]


def test_an_optimizer_that_is_kept_between_fits(tmp_path):
    """The module returns the same one again, with another schedule over it."""

    class Keeps(Net):
        kept = None

        def configure_optimizers(self):
            self.kept = self.kept or SGD(list(self.parameters()), lr=LR)
            curve = linear(min_lr_ratio=0.1).curve(Horizon(run_length(self.trainer)))
            scheduler = ScheduledLR(self.kept, curve)
            scheduler.step_after_updates()
            return [self.kept], [scheduler]

    module = Keeps(SGD)
    run = trainer(tmp_path, max_steps=20)
    run.fit(module, Data())
    run.fit_loop.epoch_loop.max_steps = 50
    run.fit(module, Data())
    schedule = linear(min_lr_ratio=0.1)
    assert module.used == [planned(schedule, 20) + planned(schedule, 30)]


@pytest.mark.parametrize("horizon", ["error", "keep", "extend"])
def test_a_longer_run_in_python(horizon, tmp_path):
    first = Net(partial(SGD, lr=LR), schedule=linear())
    fit(tmp_path, first, [Checkpoint(str(tmp_path)), Resumable()], max_epochs=2)
    second = Net(partial(SGD, lr=LR), schedule=linear(), horizon=horizon)
    again = partial(
        fit, tmp_path, second, [Checkpoint(str(tmp_path)), Resumable()],
        ckpt=tmp_path / "last.ckpt", max_epochs=4,
    )  # fmt: skip
    if horizon == "error":
        with pytest.raises(UsageError, match='horizon="keep"'):
            again()
        return
    again()
    expected = planned(linear(), 40)[20:] if horizon == "extend" else [0.0] * 20
    assert second.used[0][1:] == pytest.approx(expected[1:], abs=1e-15)


def test_a_longer_run_of_a_schedule_without_an_end(tmp_path):
    schedule = constant_warmup(warmup=4)
    first = Net(partial(SGD, lr=LR), schedule=schedule)
    fit(tmp_path, first, [Checkpoint(str(tmp_path)), Resumable()], max_steps=20)
    second = Net(partial(SGD, lr=LR), schedule=schedule)
    fit(
        tmp_path, second, [Checkpoint(str(tmp_path)), Resumable()],
        ckpt=tmp_path / "last.ckpt", max_steps=40,
    )  # fmt: skip
    assert second.used == [[LR] * 20]
