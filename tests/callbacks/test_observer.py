"""Schedules that follow a metric under a Trainer, against a plain loop with torch's."""

from __future__ import annotations

import textwrap
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_optim.compat.torch_schedules import ReduceLROnPlateau
from lit_optim.errors import UsageError
from lit_optim.optimizers.sgd import SGD
from lit_optim.schedules.metric_schedules import greedy, plateau
from tests.lightning.modules import Data, Plain, attach, trainer


class Measured(Plain):
    """Logs given values as its validation metric."""

    def __init__(self, metrics, name="val/loss"):
        super().__init__()
        self.metrics, self.logged_as, self.logged = iter(metrics), name, []

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.logged.append(next(self.metrics))
        self.log(self.logged_as, self.logged[-1] if self.logged else 0.0)


def loader():
    return DataLoader(TensorDataset(torch.zeros(2, 3, dtype=torch.float64)), batch_size=2)


METRICS = [5.0, 4.0, 4.1, 4.2, 4.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5]


def fit(tmp_path, model, schedule, **limits):
    attach(model, partial(SGD, lr=0.1), schedule)
    t = trainer(tmp_path, **({"max_epochs": len(METRICS), "num_sanity_val_steps": 0} | limits))
    t.fit(model, Data(batches=3).train_dataloader(), loader())
    return t


@pytest.mark.parametrize("every", [1, 2])
def test_plateau_equals_torchs_loop(tmp_path, every):
    """Validated every epoch of 3 updates, or every second one."""
    model = Measured(METRICS * 2)
    settings = {"factor": 0.5, "patience": 1}
    fit(tmp_path, model, ReduceLROnPlateau(**settings), check_val_every_n_epoch=every)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    expected, metrics = [], iter(METRICS)
    for epoch in range(1, len(METRICS) + 1):
        expected += [optimizer.param_groups[0]["lr"]] * 3
        if epoch % every == 0:
            theirs.step(next(metrics))
    assert [lrs[0] for lrs in model.lrs] == pytest.approx(expected, abs=1e-12)
    assert expected[-1] < 0.1


def test_within_an_epoch_and_with_accumulation(tmp_path):
    """What counts is the validation, wherever it falls."""
    model = Measured([1.0] * 40)
    fit(
        tmp_path,
        model,
        plateau(factor=0.5, patience=0),
        max_epochs=4,
        val_check_interval=1,
        accumulate_grad_batches=3,
    )
    # three validations an epoch, the first is the best so far; lowered after each other one
    assert [lrs[0] for lrs in model.lrs] == pytest.approx([0.1 * 0.5**k for k in (1, 4, 7, 10)])


def test_the_model_says_what_is_followed(tmp_path):
    class Scored(Measured):
        monitor = ("val/score", "max")

    falling = Scored([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], "val/score")
    fit(tmp_path, falling, plateau(factor=0.5, patience=1), max_epochs=6)
    assert falling.lrs[-1][0] < 0.1
    rising = Scored([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "val/score")
    fit(tmp_path, rising, plateau(factor=0.5, patience=1), max_epochs=6)
    assert rising.lrs[-1][0] == 0.1


def test_a_missing_metric_is_named_before_the_first_update(tmp_path):
    """Though `fit` asks for no sanity check."""
    model = Measured(METRICS)
    with pytest.raises(UsageError, match="monitor=val/los is not logged; did you mean val/loss"):
        fit(tmp_path, model, plateau(monitor="val/los"))
    assert model.lrs == []
    model = attach(Plain(), partial(SGD, lr=0.1), plateau())
    with pytest.raises(UsageError, match="follows val/loss, but nothing is validated"):
        trainer(tmp_path, max_epochs=2).fit(model, Data())


class Trained(Plain):
    """Logs given values as its training metric."""

    def training_step(self, batch, batch_idx):
        self.log("train/told", METRICS[self.global_step % len(METRICS)])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("every", "step"), [(1, 1), (3, 3), ("1 epoch", 5), ("10%", 2)])
def test_a_metric_of_training_is_looked_at_every_few_updates(tmp_path, every, step):
    """Against torch's scheduler, which gets the metric after the same updates; no validation."""
    settings = {"factor": 0.5, "patience": 0}
    schedule = plateau(**settings, monitor="train/told", mode="min", every=every)
    model = attach(Trained(), partial(SGD, lr=0.1), schedule)
    trainer(tmp_path, max_steps=20, accumulate_grad_batches=2).fit(model, Data(batches=10))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    expected = []
    for update in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        if (update + 1) % step == 0:
            theirs.step(METRICS[update % len(METRICS)])
    assert [lrs[0] for lrs in model.lrs] == pytest.approx(expected, abs=1e-12)
    assert expected[-1] < 0.1


def test_a_missing_metric_of_training_is_named_after_the_first_update(tmp_path):
    model = attach(Trained(), partial(SGD, lr=0.1), plateau(monitor="train/tol", every=10))
    with pytest.raises(UsageError, match="monitor=train/tol is not logged; did you mean train/to"):
        trainer(tmp_path, max_steps=20).fit(model, Data())
    assert len(model.lrs) == 1
    for every in (0, "0%"):
        with pytest.raises(UsageError, match="every must be more than 0"):
            plateau(every=every)
        with pytest.raises(UsageError, match="every must be more than 0"):
            greedy(every=every)


RANKS = """
    from lightning.pytorch import Callback, LightningModule
    from torch import nn

    class Ranked(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(64, 10)

        def forward(self, x):
            return self.net(x.flatten(1))

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            sign = -1 if self.global_rank == 0 else 1  # falls on one rank, rises on the other
            self.log("val/loss", float(sign * self.global_step))

    class Spy(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            with open(f"lrs_{trainer.global_rank}.txt", "a") as file:
                print(trainer.optimizers[0].param_groups[0]["lr"], file=file)
"""


def test_ranks_that_measure_differently_have_one_lr(train, tmp_path):
    """What counts is the mean, which stands still."""
    (tmp_path / "ranks.py").write_text(textwrap.dedent(RANKS))
    done = train(
        "allow=[ranks]", "model=custom", "model._target_=ranks.Ranked", "data=digits",
        "callbacks.spy._target_=ranks.Spy", "scheduler=plateau", "scheduler.patience=0",
        "scheduler.factor=0.5", "optimizer=sgd", "optimizer.lr=0.5", "trainer=ddp_cpu",
        "trainer.max_steps=8", "trainer.val_check_interval=2", "test=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"lrs_{rank}.txt").read_text().split() for rank in (0, 1))
    assert first == second
    assert [float(lr) for lr in first] == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    "schedule", [plateau(factor=0.5, patience=0), greedy(factor=0.5, patience=0)], ids=str
)
def test_a_checkpoint_continues_to_the_bit(tmp_path, schedule):
    straight = Measured(METRICS)
    fit(tmp_path, straight, schedule)
    first = Measured(METRICS)
    t = fit(tmp_path, first, schedule, max_epochs=5)
    t.save_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(tmp_path / "half.ckpt")  # under torch's default weights_only
    state = checkpoint["lr_schedulers"][0]["curve"]
    assert state["lrs"]
    assert [lrs[0] for lrs in first.lrs] == [lrs[0] for lrs in straight.lrs[:15]]
    second = Measured(METRICS[5:])
    checkpoint["lr_schedulers"][0]["total"] = 33  # as if it had been a run of 11 epochs
    torch.save(checkpoint, tmp_path / "half.ckpt")
    attach(second, partial(SGD, lr=0.1), schedule)
    trainer(tmp_path, max_epochs=11, num_sanity_val_steps=0).fit(
        second, Data(batches=3).train_dataloader(), loader(), ckpt_path=tmp_path / "half.ckpt"
    )
    assert [lrs[0] for lrs in second.lrs] == [lrs[0] for lrs in straight.lrs[15:]]
