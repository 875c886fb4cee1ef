"""What the tests of clients (other people's frameworks) share."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import NoReturn

import pytest


def import_client(name: str) -> ModuleType:
    """Import a client; without it skip the test, but never in CI, where all are installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        skip_without_client(error)


def skip_without_client(error: ModuleNotFoundError) -> NoReturn:
    """Skip the test for want of a package that is not ours; in CI, fail it."""
    if "CI" in os.environ or (error.name or "lit_optim").startswith("lit_optim"):
        raise error
    pytest.skip(f"needs {error.name}: pip install -e '.[clients]'", allow_module_level=True)


@pytest.fixture(autouse=True)
def fresh_clients():
    """Undo what clients keep for the whole process: accelerate's state, the environment."""
    environment = dict(os.environ)
    _reset_accelerate()
    yield
    _reset_accelerate()
    os.environ.clear()
    os.environ.update(environment)


def _reset_accelerate() -> None:
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
