"""`history.csv`: what it counts is what the module and the clock have seen."""

from __future__ import annotations

import csv
import math
import resource
from contextlib import suppress
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

import lit_optim
from lit_optim import LBFGS, SGD, AdamW
from lit_optim.callbacks import history_file
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.history_file import HistoryFile
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.resumable import Resumable
from lit_optim.schedules.library import cosine_warmup
from lit_optim.wrappers import Sam, Wrapped
from tests.lightning.modules import SineData, trainer

BATCHES = 6  # of an epoch


class Net(LightningModule):
    """Counts its own gradients; in manual optimization it asks for them in the way of `how`."""

    def __init__(self, make=partial(AdamW, lr=0.1), how="automatic", odd=()):  # noqa: B008
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(6, 1).double()
        self.make, self.how, self.odd = make, how, dict(odd)
        self.automatic_optimization = how == "automatic"
        self.gradients = self.validations = 0
        self.lr, self.values = math.nan, []

    def configure_optimizers(self):
        return lit_optim.configure_optimizers(self, self.make, cosine_warmup(warmup=2, total=18))

    def loss(self, batch):
        self.gradients += 1
        return (self.net(batch[0]) - batch[1]).square().mean()

    def training_step(self, batch, batch_idx):
        if self.automatic_optimization:
            return self.loss(batch)
        optimizer = self.optimizers()
        for _ in range(2):  # two gradients for an update
            if self.how == "manual_backward":
                self.manual_backward(self.loss(batch))
            elif self.how == "backward":
                self.loss(batch).backward()
            else:
                params = list(self.net.parameters())
                grads = torch.autograd.grad(self.loss(batch), params)
                for p, grad in zip(params, grads, strict=True):
                    p.grad = grad
        optimizer.step()
        optimizer.zero_grad()
        return None

    def on_before_optimizer_step(self, optimizer):
        self.lr = optimizer.param_groups[0]["lr"]

    def validation_step(self, batch, batch_idx):
        return (self.net(batch[0]) - batch[1]).square().mean()

    def on_validation_epoch_end(self):
        value = float(self.net.weight.square().sum())
        if self.trainer.sanity_checking:
            self.log("val/loss", value)
            return
        self.validations += 1
        self.log("val/loss", value)
        for name, metric in self.odd.get(self.validations, {}).items():
            self.log(name, metric)
        told = self.trainer.global_step, self.gradients, self.lr, value
        self.values.append(told)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fit(tmp_path, module, ckpt_path=None, more=(), **settings):
    history = HistoryFile(tmp_path / "history.csv", "val/loss")
    saved = Checkpoint(str(tmp_path), monitor="val/loss", mode="min")
    settings = {"max_epochs": 2, "val_check_interval": 3, "enable_checkpointing": True} | settings
    made = trainer(tmp_path, callbacks=[history, saved, *more], **settings)
    made.callbacks.append(history.restart)
    made.fit(module, SineData(BATCHES, 4), ckpt_path=ckpt_path, weights_only=True)
    return history


@pytest.mark.parametrize(
    ("make", "how", "settings"),
    [
        (partial(AdamW, lr=0.1), "automatic", {}),
        (partial(LBFGS, max_iter=4), "automatic", {}),
        (Wrapped(partial(SGD, lr=0.1), Sam), "automatic", {}),
        (partial(AdamW, lr=0.1), "automatic", {"accumulate_grad_batches": 3}),
        (partial(AdamW, lr=0.1), "manual_backward", {}),
        (partial(AdamW, lr=0.1), "backward", {}),
        (partial(AdamW, lr=0.1), "autograd.grad", {}),
    ],
    ids=["adamw", "lbfgs", "sam", "accumulated", "manual_backward", "backward", "autograd.grad"],
)
def test_a_line_has_what_was_spent_so_far(tmp_path, make, how, settings):
    module = Net(make, how)
    history = fit(tmp_path, module, **settings)
    found = rows(tmp_path / "history.csv")
    assert list(found[0]) == ["step", "seconds", "evaluations", "lr", "val/loss"]
    told = [
        (int(row["step"]), int(row["evaluations"]), float(row["lr"]), float(row["val/loss"]))
        for row in found
    ]
    assert len(told) == 4
    assert [one[:3] for one in told] == [one[:3] for one in module.values]
    for one, value in zip(told, module.values, strict=True):
        assert one[3] == torch.tensor(value[3]).item()  # Lightning logs float32
    assert history.evaluations == module.gradients
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)


def test_the_clock_stands_while_it_validates_and_saves(tmp_path, monkeypatch):
    now = [0.0]

    class Timed(Net):
        def training_step(self, batch, batch_idx):
            now[0] += 1
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            now[0] += 100

        def on_save_checkpoint(self, checkpoint):
            now[0] += 10_000

    monkeypatch.setattr(history_file.time, "perf_counter", lambda: now[0])
    history = fit(tmp_path, Timed())
    seconds = [float(row["seconds"]) for row in rows(tmp_path / "history.csv")]
    assert seconds == [3, 6, 9, 12]
    assert history.seconds == 12
    assert now[0] > 10_000


def test_a_metric_that_comes_later_is_a_column_with_gaps(tmp_path):
    odd = {2: {'a, "b"': math.inf}, 3: {"acc": 0.1, "val/nan": math.nan}}
    fit(tmp_path, Net(odd=odd))
    found = rows(tmp_path / "history.csv")
    assert list(found[0])[4:] == ["val/loss", 'a, "b"', "acc", "val/nan"]
    assert [row['a, "b"'] for row in found] == ["nan", "inf", "nan", "nan"]
    assert [row["acc"] for row in found] == ["nan", "nan", repr(torch.tensor(0.1).item()), "nan"]
    assert {row["val/nan"] for row in found} == {"nan"}


def test_each_validation_set_has_its_columns(tmp_path):
    class Two(Net):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("mean", float(dataloader_idx))

    class Data(SineData):
        def val_dataloader(self):
            return [super().val_dataloader()] * 2

    module = Two()
    history = HistoryFile(tmp_path / "history.csv")
    trainer(tmp_path, callbacks=[history], max_epochs=1).fit(module, Data(BATCHES, 4))
    [row] = rows(tmp_path / "history.csv")
    names = ["mean/dataloader_idx_0", "mean/dataloader_idx_1"]
    assert [row[name] for name in names] == ["0.0", "1.0"]


@pytest.mark.parametrize("tail", ["", "9,1.5,9,0.1,0.2\n12,2.0,12,0.1,0.2\n15,2.", "x,y\n"])
def test_a_resumed_run_goes_on_as_one_that_was_never_interrupted(tmp_path, tail):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(whole, Net(), max_epochs=3)
    fit(parts, Net(), max_epochs=1)
    with (parts / "history.csv").open("a") as file:
        file.write(tail)  # what was done after the checkpoint, and cut off
    before = rows(parts / "history.csv")[:2]
    fit(parts, Net(), ckpt_path=parts / "last.ckpt", max_epochs=3)
    found = rows(parts / "history.csv")
    known = ("step", "evaluations", "val/loss")
    assert [[row[k] for k in known] for row in found] == [
        [row[k] for k in known] for row in rows(whole / "history.csv")
    ]
    assert found[:2] == before
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)


def test_a_resumed_run_with_nothing_left_to_train_has_its_counts(tmp_path):
    before = fit(tmp_path, Net())
    after = fit(tmp_path, Net(), ckpt_path=tmp_path / "last.ckpt")
    assert after.evaluations == before.evaluations == 12


def test_what_an_earlier_version_spent_is_unknown(tmp_path):
    fit(tmp_path, Net(), max_epochs=1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del saved["callbacks"]["HistoryFile"]
    torch.save(saved, tmp_path / "last.ckpt")
    (tmp_path / "history.csv").unlink()
    history = fit(tmp_path, Net(), ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert math.isnan(history.evaluations)
    found = rows(tmp_path / "history.csv")
    assert [row["step"] for row in found] == ["9", "12"]
    assert {row[key] for row in found for key in ("seconds", "evaluations")} == {"nan"}


@pytest.mark.parametrize("kind", ["garbage", "binary", "directory"])
def test_what_is_no_history_ends_no_training(tmp_path, kind, caplog):
    fit(tmp_path, Net(), max_epochs=1)
    path = tmp_path / "history.csv"
    path.unlink()
    if kind == "directory":
        (path / "within").mkdir(parents=True)
    else:
        path.write_bytes(b'step,seconds\n1,"' if kind == "garbage" else b"\xff\x00" * 99)
    history = fit(tmp_path, Net(), ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert history.evaluations == 12
    if kind == "directory":
        [told] = [r.message for r in caplog.records if "cannot be written" in r.message]
        assert str(path) in told
    else:
        assert [row["step"] for row in rows(path)] == ["9", "12"]


class InValidation(Callback):
    """Ends the run in its second validation."""

    def on_validation_batch_start(self, trainer, pl_module, *others):
        if trainer.global_step == 6:
            raise KeyboardInterrupt


@pytest.mark.parametrize("starts", [1, 2], ids=["once", "killed before the next checkpoint"])
def test_a_run_that_resumes_with_a_validation_has_its_line_and_its_lr(starts, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(whole, Net(), more=[Resumable()])
    with suppress(SystemExit, KeyboardInterrupt):
        fit(parts, Net(), more=[Resumable(), InValidation()])
    newest = (parts / "last.ckpt").rename(parts / "cut.ckpt")
    for _ in range(starts):
        fit(parts, Net(), ckpt_path=newest, more=[Resumable()])
    lrs = [[(row["step"], row["lr"]) for row in rows(p / "history.csv")] for p in (whole, parts)]
    assert lrs[0] == lrs[1]


def test_lines_that_a_full_disk_did_not_take_are_written_later(tmp_path, monkeypatch, caplog):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(whole, Net())
    add = HistoryFile._add

    def add_to_full_disk(history, row):
        if row["step"] in ("6", "9"):  # it takes a part of the line
            resource.setrlimit(resource.RLIMIT_FSIZE, (history.path.stat().st_size + 3, -1))
        add(history, row)
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))

    monkeypatch.setattr(HistoryFile, "_add", add_to_full_disk)
    fit(parts, Net())
    known = ("step", "evaluations", "lr", "val/loss")
    found = [[[row[k] for k in known] for row in rows(p / "history.csv")] for p in (whole, parts)]
    assert found[0] == found[1]
    assert len([r for r in caplog.records if "history.csv: cannot be written" in r.message]) == 1


def test_a_dry_run_leaves_no_file(tmp_path):
    fit(tmp_path, Net(), fast_dev_run=True, val_check_interval=None)
    assert not (tmp_path / "history.csv").exists()


@pytest.mark.parametrize(("mode", "worst"), [("min", 0.75), ("max", 0.25)])
def test_the_worst_value_is_finite_and_may_be_that_of_the_untrained_model(tmp_path, mode, worst):
    values = iter([0.75, 0.5, math.nan, 0.25, math.inf])

    class Told(Net):
        def on_validation_epoch_end(self):
            self.log("val/loss", next(values))

    history = MetricHistory("val/loss", mode)
    fit(tmp_path, Told(), more=[history])
    assert history.worst(mode) == worst
    other = MetricHistory("val/loss", mode)
    other.load_state_dict(history.state_dict())
    assert other.worst(mode) == worst
    assert math.isnan(MetricHistory("val/loss", mode).worst(mode))
