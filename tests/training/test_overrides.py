"""What is set on objects of Lightning is set in two modules, each thing with its reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from lit_optim.training import overrides

PACKAGE = Path(__file__).parents[2] / "lit_optim"
OVERRIDES = [PACKAGE / "training" / "overrides.py", PACKAGE / "training" / "loggers.py"]
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
        if path not in OVERRIDES:
            found = {name for name in set_attributes(path) if not name.startswith("__")}
            assert found <= DOCUMENTED | ({"model"} if path.stem == "ddp_rewrapping" else set()), (
                path
            )


def test_every_override_has_its_reason():
    trees = [ast.parse(path.read_text("utf-8")) for path in OVERRIDES]
    functions = [
        n
        for tree in trees
        for n in tree.body
        if isinstance(n, ast.FunctionDef) and n.name[0] != "_"
    ]
    assert len(functions) >= 8
    for function in functions:
        assert "Why: " in (ast.get_docstring(function) or ""), function.name


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
