"""What is set on objects of Lightning is set in one module, each thing with its reason."""

from __future__ import annotations

import ast
import errno
from pathlib import Path

import pytest
from lightning.pytorch import loggers

from lit_optim.training.overrides import tolerate_io_errors

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
