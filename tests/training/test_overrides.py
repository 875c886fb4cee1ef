"""What is set on objects of Lightning is set in one module, each thing with its reason."""

from __future__ import annotations

import ast
import errno
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer, loggers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lit_optim.training import overrides
from lit_optim.training.overrides import flush_in_background, flush_loggers, tolerate_io_errors

PACKAGE = Path(__file__).parents[2] / "lit_optim"
OVERRIDES = PACKAGE / "training" / "overrides.py"
#: Attributes that Lightning documents for callbacks and plugins to set.
DOCUMENTED = {"should_stop", "accumulate_grad_batches", "checkpoint_io"}
#: The names under which Lightning's objects are passed around.
OBJECTS = {"trainer", "strategy", "connector", "fit_loop", "epoch_loop", "logger"}


def set_attributes(path):
    """The attributes of Lightning's objects to which a module assigns."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute):
                owner = target.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in OBJECTS:
                    yield target.attr


@pytest.mark.parametrize(
    "room", ["callbacks", "checkpoints", "lightning", "reports", "runs", "tasks", "training"]
)
def test_no_other_module_sets_what_lightning_does_not_document(room):
    for path in sorted((PACKAGE / room).rglob("*.py")):
        if path != OVERRIDES:
            found = {name for name in set_attributes(path) if not name.startswith("__")}
            assert found <= DOCUMENTED | ({"model"} if path.stem == "ddp_rewrapping" else set()), (
                path
            )


def test_every_override_has_its_reason():
    tree = ast.parse(OVERRIDES.read_text("utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
    assert len(functions) >= 8
    for function in functions:
        assert "Why: " in (ast.get_docstring(function) or ""), function.name


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
    monkeypatch.setattr(overrides, "FLUSH_SECONDS", 1000)
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
    monkeypatch.setattr(overrides, "FLUSH_SECONDS", 0.01)
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


def test_a_validation_that_began_again_is_over_when_it_ends(tmp_path):
    """In a checkpoint after it, no batch is missing: a third start would validate once more."""
    run = Trainer(logger=False, default_root_dir=tmp_path)
    loop = run.fit_loop.epoch_loop.val_loop
    progress = loop.batch_progress
    progress.total.completed = progress.total.processed = 3
    progress.total.ready = progress.total.started = 4  # as a checkpoint in a validation says
    loop.restarting = True
    loop.update_restart_stage()
    assert loop.restarted_mid_evaluation
    overrides.restart_validation(run)
    for _ in range(2):
        for count in ("ready", "started", "processed", "completed"):
            getattr(progress, f"increment_{count}")()
    loop.update_restart_stage()
    assert not loop.restarted_mid_evaluation
