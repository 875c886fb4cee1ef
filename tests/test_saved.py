"""A run of which nothing could be saved does not end as if all were well."""

from __future__ import annotations

import errno
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.checkpoints import files
from lit_optim.errors import TrainingFailed, UsageError
from lit_optim.runs.locks import lock_run_dir
from lit_optim.runs.run import check_saved
from tests.lightning.modules import SineData


def test_nothing_was_ever_written(tmp_path, monkeypatch):
    writer = files.CheckpointFiles()
    trainer = SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=writer))
    check_saved(trainer)  # nothing was to be saved

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    writer.save_checkpoint({}, tmp_path / "last.ckpt")
    with pytest.raises(TrainingFailed, match="could be written: No space left on device"):
        check_saved(trainer)
    monkeypatch.undo()
    writer.save_checkpoint({}, tmp_path / "last.ckpt")
    check_saved(trainer)
    monkeypatch.setattr(files.os, "replace", full)
    writer.save_checkpoint({}, tmp_path / "last.ckpt")
    with pytest.raises(TrainingFailed, match="the last checkpoint of this run could not be"):
        check_saved(trainer)
    monkeypatch.undo()
    check_saved(SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=None)))


class Net(LightningModule):
    """Its accuracy rises to the middle of the run."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(6, 1).double()

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", {2: 1.0, 4: 3.0, 6: 2.0}[self.trainer.global_step])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("name", ["best", "{step}"])
def test_a_best_that_could_not_be_written_is_not_the_best(tmp_path, monkeypatch, name):
    """The next that is better than what is there takes its place."""
    real = os.replace

    def full(source, target):
        is_content = source.suffix == ".tmp" and ".sha256" not in source.name
        if is_content and torch.load(source, weights_only=True)["global_step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    kept = Checkpoint(str(tmp_path), filename=name, monitor="val/acc", mode="max")
    trainer = Trainer(
        callbacks=[kept], max_epochs=1, val_check_interval=2, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.strategy.checkpoint_io = files.CheckpointFiles()
    trainer.fit(Net(), SineData(6, 4))
    assert torch.load(kept.best_model_path, weights_only=True)["global_step"] == 6
    assert kept.best_model_score == 2
    assert len([*tmp_path.glob("*.ckpt")]) == 3  # with last and previous


def test_a_lock_that_is_no_file_is_neither_waited_for_nor_written_through(tmp_path):
    fifo, linked, other = tmp_path / "fifo", tmp_path / "linked", tmp_path / "precious"
    for where in (fifo, linked):
        where.mkdir()
    os.mkfifo(fifo / ".lock")
    other.write_text("mine")
    (linked / ".lock").symlink_to(other)

    def late(*args):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        lock_run_dir(fifo).close()
        with pytest.raises(UsageError, match=r"\.lock is a link"):
            lock_run_dir(linked)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert other.read_text() == "mine"
