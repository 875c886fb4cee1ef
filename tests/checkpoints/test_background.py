"""Checkpoints that a thread writes while the training goes on are as safe as the others."""

from __future__ import annotations

import errno
import os
import threading
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

import lit_optim
from lit_optim.callbacks import checkpoint
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.checkpoints.background import Writing
from lit_optim.checkpoints.files import CheckpointFiles, find_damage
from tests.callbacks.chaotic import Net
from tests.lightning.modules import SineData


def number_in(path):
    return torch.load(path, weights_only=True)["number"]


def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


#: What has to do with checkpoints, or with threads.
WAITS = {
    "another checkpoint": lambda files, path: files.save_checkpoint({}, path / "other.ckpt"),
    "more in the background": lambda files, path: files.in_background().__enter__(),
    "loading": lambda files, path: files.load_checkpoint(path / "best.ckpt"),
    "removing": lambda files, path: files.remove_checkpoint(path / "other.ckpt"),
    "their number": lambda files, path: files.written,
    "why one failed": lambda files, path: files.failure,
    "who has to know": lambda files, path: files.settle(),
    "a fork": lambda files, path: fork(),
}


@pytest.mark.parametrize("how", WAITS)
def test_what_waits_until_it_is_written(how, tmp_path, monkeypatch):
    files, gate = CheckpointFiles(), threading.Event()
    names = "best.ckpt", "last.ckpt"
    for name in names:
        files.save_checkpoint({"number": 1}, tmp_path / name)
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (gate.wait(20), sync(handle)))
    with files.in_background():
        files.save_checkpoint({"number": 2}, tmp_path / "best.ckpt")
        assert files.is_waiting(tmp_path / "best.ckpt")
        assert files.repeat(tmp_path / "best.ckpt", tmp_path / "last.ckpt")
    assert [number_in(tmp_path / name) for name in names] == [1, 1]
    threading.Timer(0.05, gate.set).start()
    WAITS[how](files, tmp_path)
    assert [number_in(tmp_path / name) for name in names] == [2, 2]
    assert number_in(tmp_path / "previous.ckpt") == 1
    assert not any(find_damage(tmp_path / name) for name in names)
    assert not list(tmp_path.glob(".*tmp"))


class Looks(Callback):
    def on_validation_end(self, trainer, pl_module):
        """May look at a checkpoint."""


class Sends(CSVLogger):
    def after_save_checkpoint(self, checkpoint_callback):
        """May send it away."""


class Counts(Net):
    def on_save_checkpoint(self, checkpoint):
        """May count them."""


def fit(path, kind=Net, logger=False, more=()):
    torch.manual_seed(0)
    saving = Checkpoint(str(path), monitor="val/loss")
    trainer = Trainer(
        callbacks=[saving, *more], logger=logger, accelerator="cpu", max_epochs=6,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=path,
    )  # fmt: skip
    trainer.strategy.checkpoint_io = CheckpointFiles()
    trainer.fit(kind(partial(lit_optim.AdamW, lr=0.03), None, {}), SineData(6, 4))
    return saving


@pytest.mark.parametrize("who", ["nobody", "a callback", "a logger", "a module", "the memory"])
def test_who_looks_at_a_checkpoint_finds_it(who, tmp_path, monkeypatch):
    begun, begin = [], Writing.begin
    monkeypatch.setattr(Writing, "begin", lambda *args: (begun.append(1), begin(*args)))
    parts = {
        "a callback": {"more": [Looks()]}, "a logger": {"logger": Sends(tmp_path)},
        "a module": {"kind": Counts},
    }  # fmt: skip
    if who == "the memory":
        monkeypatch.setattr(checkpoint, "MOST_WEIGHTS", 10)
    fit(tmp_path, **parts.get(who, {}))
    assert len(begun) == (5 if who == "nobody" else 0)  # the first is checked at once
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 36


def test_what_could_not_be_written_is_not_the_best(tmp_path, monkeypatch, caplog):
    failed, replace = [], os.replace

    def full(source, target):
        if (
            os.path.basename(target) == "best.ckpt"
            and threading.current_thread().name == "checkpoints"
        ):
            failed.append(target)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    saving = fit(tmp_path)
    assert failed, "the loss has improved"
    assert "best.ckpt was not written: No space left on device" in caplog.text
    best, last = (
        torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    assert (best["global_step"], last["global_step"]) == (6, 36)
    states = [next(iter(saved["callbacks"].values())) for saved in (best, last)]
    assert states[0]["best_model_score"] == states[1]["best_model_score"] == saving.best_model_score
