"""Loggers fall silent on a full disk; TensorBoard's files are flushed in the background."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.utils.tensorboard
from lightning.pytorch import loggers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lit_optim.training import loggers as changed
from lit_optim.training.loggers import flush_in_background, flush_loggers, tolerate_io_errors


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_a_logger_falls_silent_whatever_its_io_error_was_made_into(kind, tmp_path, caplog):
    logger = getattr(loggers, kind)(tmp_path)
    writer = logger.experiment
    name = "add_scalar" if kind == "TensorBoardLogger" else "log_metrics"
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise PermissionError(errno.EACCES, "Permission denied")

    setattr(writer, name, fail)
    tolerate_io_errors(logger)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    assert len(calls) == 1
    assert caplog.messages == [f"{kind} stops logging: Permission denied; training continues"]


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = "TensorBoardLogger stops logging: No space left on device; training continues"


@pytest.mark.parametrize("call", ["add_event", "flush", "close"])
def test_what_is_written_into_the_open_file_is_tolerated(tmp_path, caplog, monkeypatch, call):
    logger = loggers.TensorBoardLogger(tmp_path)
    tolerate_io_errors(logger)
    logger.log_metrics({"loss": 1.0}, 0)
    writer = logger.experiment
    monkeypatch.setattr(writer.file_writer.event_writer, call, full)
    getattr(writer, call, lambda: writer.add_text("note", "text"))()
    logger.log_metrics({"loss": 1.0}, 1)
    assert caplog.messages == [FULL]


@pytest.mark.parametrize("place", ["add_event", "flush", "close", "the file"])
def test_what_is_written_without_the_logger_is_tolerated_too(tmp_path, caplog, monkeypatch, place):
    """As by a module that calls `self.logger.experiment.add_image`, in the first file and later."""
    logger = loggers.TensorBoardLogger(tmp_path)
    tolerate_io_errors(logger)
    logger.log_metrics({"loss": 1.0}, 0)
    writer = logger.experiment
    owner, name = (torch.utils.tensorboard.writer, "FileWriter"), place
    if place != "the file":
        owner = owner[0].FileWriter, name
    writer.close()
    monkeypatch.setattr(*owner, full)
    for step in range(3):
        writer.add_text("note", "text", step)
        writer.flush()
        writer.close()
        logger.log_metrics({"loss": 1.0}, step)
    assert caplog.messages == [FULL]


def test_a_mistake_in_what_is_written_without_the_logger_is_raised(tmp_path):
    logger = loggers.TensorBoardLogger(tmp_path)
    tolerate_io_errors(logger)
    logger.log_metrics({"loss": 1.0}, 0)
    with pytest.raises(NotImplementedError):
        logger.experiment.add_scalar("loss", object(), 1)
    logger.experiment.add_scalar("loss", 2.0, 1)
    logger.save()
    assert steps_on_disk(logger) == [0, 1]


def test_a_mistake_in_what_is_logged_is_raised(tmp_path):
    logger = loggers.TensorBoardLogger(tmp_path)
    tolerate_io_errors(logger)
    with pytest.raises(ValueError, match="not supported"):
        logger.log_metrics({"loss": object()}, 0)


def steps_on_disk(logger):
    """The steps of the scalars that a reader finds now."""
    [file] = Path(logger.log_dir).glob("events.*")
    return [event.step for event in EventFileLoader(str(file)).Load() if event.summary.value]


def logged(tmp_path, **kwargs):
    """A logger with five steps, each saved as Lightning does it."""
    logger = loggers.TensorBoardLogger(tmp_path, **kwargs)
    flush_in_background(logger)
    tolerate_io_errors(logger)
    logger.log_hyperparams({"lr": 0.1}, {})
    logger.save()
    writer = logger.experiment.file_writer.event_writer
    flush, flushed = writer.flush, []
    writer.flush = lambda: (flushed.append(True), flush())
    for step in range(5):
        logger.log_metrics({"loss": 1.0}, step)
        logger.save()
    return logger, flushed


def test_a_step_does_not_wait_until_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(changed, "FLUSH_SECONDS", 1000)
    logger, flushed = logged(tmp_path)
    assert not flushed
    assert Path(logger.log_dir, "hparams.yaml").exists()
    flush_loggers(SimpleNamespace(loggers=[logger]))
    assert flushed == [True]
    assert steps_on_disk(logger) == [*range(5)]
    logger.log_metrics({"loss": 1.0}, 5)
    logger.finalize("failed")
    assert steps_on_disk(logger) == [*range(6)]


def test_the_writers_thread_writes_it_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(changed, "FLUSH_SECONDS", 0.01)
    logger, flushed = logged(tmp_path)
    end = time.monotonic() + 60
    while steps_on_disk(logger) != [*range(5)] and time.monotonic() < end:
        time.sleep(0.01)
    assert steps_on_disk(logger) == [*range(5)]
    assert not flushed


class OwnSave(loggers.TensorBoardLogger):
    """Saves somewhere else as well."""

    def save(self):
        super().save()


@pytest.mark.parametrize(
    ("kind", "given"),
    [(loggers.TensorBoardLogger, {"flush_secs": 600}), (OwnSave, {}), (loggers.CSVLogger, {})],
)
def test_a_logger_that_is_told_how_to_save_does_so(tmp_path, kind, given):
    logger = kind(tmp_path, **given)
    save = logger.save
    flush_in_background(logger)
    flush_loggers(SimpleNamespace(loggers=[logger]))
    assert logger.save == save
