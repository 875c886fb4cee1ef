"""Monitored metrics are checked before training, and have the right direction."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric

from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.runs.build import build_run
from lit_optim.schedules.metric_schedules import plateau
from tests.lightning.modules import Data, Plain, attach, trainer

#: Validation by validation; the lowest is at update 4, the highest at update 6.
VALUES = [3.0, 1.0, 5.0, 2.0]
EACH = 2  # updates between two validations
LOWEST, HIGHEST = 4, 6


def loaders(count):
    one = DataLoader(TensorDataset(torch.zeros(2, 3, dtype=torch.float64)), batch_size=2)
    return [one] * count if count > 1 else one


class Logs(Plain):
    """Logs `VALUES` under a name, from one or several validation sets."""

    def __init__(self, name, loaders=1, metric=None):
        super().__init__()
        self.name, self.loaders, self.metric = name, loaders, metric
        self.hparams.clear()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        done = (self.global_step or EACH) // EACH - 1
        value = torch.tensor(VALUES[done])
        if self.metric is not None:
            self.metric.update(value)
            self.log(self.name, self.metric)
        elif self.name.endswith("_epoch"):
            self.log(self.name.removesuffix("_epoch"), value, on_step=True, on_epoch=True)
        else:
            self.log(self.name.partition("/dataloader_idx")[0], value)

    def val_dataloader(self):
        return loaders(self.loaders)


def fit(tmp_path, model, *callbacks, **settings):
    t = trainer(
        tmp_path,
        callbacks=list(callbacks),
        enable_checkpointing=True,
        **{"max_epochs": 4, "num_sanity_val_steps": 1} | settings,
    )
    t.fit(model, Data(batches=EACH).train_dataloader())
    return t


NAMES = {
    "val/mse": LOWEST,
    "val/loss/dataloader_idx_0": LOWEST,
    "val/loss_epoch": LOWEST,
    "val_loss": LOWEST,
    "val/perplexity": LOWEST,
    "mean_loss": LOWEST,
    "loss_val": LOWEST,
    "val/acc": HIGHEST,
    "val/f1_epoch": HIGHEST,
    "val/psnr/dataloader_idx_1": HIGHEST,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [Checkpoint, ModelCheckpoint])
def test_the_best_checkpoint_is_the_best(tmp_path, name, kind):
    """Ours gets no mode; Lightning's gets one, as the independent reference."""
    several = 2 if "dataloader_idx" in name else 1
    mode = {"mode": "min" if NAMES[name] == LOWEST else "max"} if kind is ModelCheckpoint else {}
    fit(tmp_path, attach(Logs(name, several)), kind(str(tmp_path), "best", monitor=name, **mode))
    assert torch.load(tmp_path / "best.ckpt")["global_step"] == NAMES[name]


class Higher(Metric):
    """The last value; a class that says which way is better, under a name that does not."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("value", torch.tensor(0.0), dist_reduce_fx="mean")

    def update(self, value):
        self.value = value

    def compute(self):
        return self.value


class Lower(Higher):
    higher_is_better = False


class Silent(Higher):
    higher_is_better = None


@pytest.mark.parametrize(("metric", "best"), [(Higher, HIGHEST), (Lower, LOWEST)])
@pytest.mark.parametrize("name", ["val/foo", "val/loss", "val/acc"])
def test_a_torchmetrics_class_says_which_way(tmp_path, metric, best, name):
    """Whatever the name says."""
    fit(tmp_path, attach(Logs(name, metric=metric())), Checkpoint(str(tmp_path), monitor=name))
    assert torch.load(tmp_path / "best.ckpt")["global_step"] == best


@pytest.mark.parametrize("metric", [None, Silent()])
def test_an_unknown_direction_is_refused_before_training(tmp_path, metric):
    model = attach(Logs("val/foo", metric=metric))
    with pytest.raises(UsageError, match="mode=min or mode=max must be given: the name of val/foo"):
        fit(tmp_path, model, Checkpoint(str(tmp_path), monitor="val/foo"))
    assert model.lrs == []
    model = attach(Logs("val/foo"), scheduler=plateau(monitor="val/foo"))
    with pytest.raises(UsageError, match="mode=min or mode=max must be given: the name of val/foo"):
        fit(tmp_path, model)
    assert model.lrs == []
    kept = Checkpoint(str(tmp_path), monitor="val/foo", mode="max")
    fit(tmp_path, attach(Logs("val/foo", metric=metric)), kept)
    assert torch.load(tmp_path / "best.ckpt")["global_step"] == HIGHEST


@pytest.mark.parametrize(("metric", "falls"), [(Higher, False), (Lower, True)])
def test_a_plateau_follows_the_direction_of_the_class(tmp_path, metric, falls, monkeypatch):
    monkeypatch.setattr("tests.callbacks.test_monitor.VALUES", [1.0, 2.0, 3.0, 4.0])
    model = attach(
        Logs("val/foo", metric=metric()), scheduler=plateau(monitor="val/foo", patience=0)
    )
    fit(tmp_path, model)
    assert (model.lrs[-1][0] < model.lrs[0][0]) == falls


USER = """
    import torch
    from lightning.pytorch import LightningDataModule, LightningModule
    from torch.utils.data import DataLoader, TensorDataset

    class Net(LightningModule):
        def __init__(self, name: str = "val/loss", values: list = (3.0, 1.0, 5.0, 2.0)):
            super().__init__()
            self.net, self.name, self.values = torch.nn.Linear(3, 1), name, values

        def training_step(self, batch, batch_idx):
            open("trained.txt", "a").write("x")
            loss = self.net(batch[0]).square().mean()
            self.log("plain", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            if self.name:
                self.log(self.name, self.values[max(0, self.global_step // 2 - 1)])
                self.log("val/other_thing", 1.0)

    class Guarded(Net):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                super().validation_step(batch, batch_idx)

    class Data(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.ones(8, 3)), batch_size=4)

        val_dataloader = train_dataloader
"""


@pytest.fixture
def user_run(tmp_path, monkeypatch, run_here):
    """Run a module of the user's own in this process; returns the result, if it ends well."""
    (tmp_path / "monitored.py").write_text(textwrap.dedent(USER))
    monkeypatch.syspath_prepend(tmp_path)
    line = (
        "model=custom", "model._target_=monitored.Net", "data=custom", "allow=[monitored]",
        "data._target_=monitored.Data", "trainer.max_epochs=4",
    )  # fmt: skip
    yield lambda *argv: run_here(*line, *argv)
    sys.modules.pop("monitored", None)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["model.name=val_loss"], "monitor=val/loss is not logged; did you mean val_loss?"),
        (["model.name=val_loss"], "(logged: val_loss, val/other_thing; choose one with "),
        (["monitor=val/los"], "monitor=val/los is not logged; did you mean val/loss?"),
        (["model.name=val/acc"], "monitor=val/loss is not logged"),
        (["model.name=val/acc", "monitor=acc"], "monitor=acc is not logged; did you mean val/acc?"),
        (["model.name=''"], "monitor=val/loss is not logged (nothing is logged there"),
        (["monitor=val/los", "~callbacks.checkpoint"], "monitor=val/los is not logged"),
        (["model.name=val_loss", "monitor=val_loss", "scheduler=plateau",
          "scheduler.monitor=val/loss"], "monitor=val/loss is not logged"),
        (["callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
          "callbacks.stop.monitor=val_los"], "callbacks.stop.monitor=val_los is not logged"),
        (["monitor=plain"], "mode=min or mode=max must be given: the name of plain does"),
        (["model.name=val/foo", "monitor=val/foo"], "mode=min or mode=max must be given: the name"),
        (["model.name=val/foo", "monitor=val/foo", "~callbacks.checkpoint"],
         "mode=min or mode=max must be given: the name of val/foo does not say"),
        (["callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
          "callbacks.stop.monitor=val/other_thing"], "callbacks.stop.mode=min or callbacks.st"),
    ],
)  # fmt: skip
def test_what_is_not_logged_costs_no_update(user_run, tmp_path, argv, message, steps):
    """Whatever depends on the metric, also if the sanity check is switched off."""
    with pytest.raises(UsageError) as refused:
        user_run(*argv, f"trainer.num_sanity_val_steps={steps}")
    assert message in str(refused.value)
    assert not (tmp_path / "trained.txt").exists()


@pytest.mark.parametrize(
    ("argv", "best", "final"),
    [
        ([], {"val/loss": 1.0}, {"val/loss": 2.0, "val/other_thing": 1.0}),
        (["model.name=val/mse", "monitor=val/mse"], {"val/mse": 1.0}, None),
        (["model.name=val/acc", "monitor=val/acc"], {"val/acc": 5.0}, None),
        (["model.name=val/foo", "monitor=val/foo", "mode=max"], {"val/foo": 5.0}, None),
        (["monitor=plain", "mode=min"], None, None),  # a metric of training
        (["model._target_=monitored.Guarded"], {"val/loss": 1.0}, None),
        (["model.name=val/foo", "~callbacks.checkpoint"], {}, {"val/foo": 2.0,
                                                               "val/other_thing": 1.0}),
    ],
)  # fmt: skip
def test_the_best_is_printed_if_the_direction_is_known(
    user_run, tmp_path, capsys, argv, best, final
):
    result = user_run(*argv)
    if best is not None:
        assert result.best == best
    assert final in (None, result.final)
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["best"] == result.best
    shown = capsys.readouterr().out
    for name, value in result.final.items():
        [line] = [line for line in shown.splitlines() if line.strip().startswith(name)]
        assert ("best" in line) == (name in result.best)
        assert f"{value:.4f}" in line


@pytest.mark.parametrize(
    ("own", "monitor", "falls"), [("val/loss", "val/acc", True), ("val/acc", "val/loss", False)]
)
def test_a_schedule_with_its_own_metric_does_not_get_the_direction_of_the_run(
    user_run, tmp_path, own, monitor, falls
):
    """A plateau on a rising metric: of a loss it stands still, of an accuracy it improves."""
    cfg = compose_config(
        prepare_command_line(
            ["scheduler=plateau", f"scheduler.monitor={own}", f"monitor={monitor}"]
        ).argv
    )  # fmt: skip
    parts = build_run(cfg, tmp_path, logs=False)
    assert cfg.scheduler.mode is None
    assert cfg.callbacks.checkpoint.mode == ("max" if monitor == "val/acc" else None)
    assert parts.history.monitor == monitor


def test_early_stopping_uses_the_direction_of_its_metric(user_run):
    """Lightning's own default, min, would stop an accuracy that rises."""
    stop = [
        "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
        "callbacks.stop.patience=1",
    ]
    rising = ["model.values=[1.0,2.0,3.0,4.0]"]
    acc = ["model.name=val/acc", "monitor=val/acc", "callbacks.stop.monitor=val/acc"]
    assert user_run(*stop, *rising, *acc).steps == 8
    loss = ["callbacks.stop.monitor=val/loss"]
    assert user_run(*stop, *rising, *loss).steps == 4
