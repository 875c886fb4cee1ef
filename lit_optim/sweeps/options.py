"""The options of sweeps: the arguments of the launcher of this app, read without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_optim.errors import UsageError, show
from lit_optim.hyperparameters import accepts, describe
from lit_optim.signatures import read_signature

LAUNCHER = "lit_optim.sweeps.launcher.ProcessLauncher"


def read_options() -> dict[str, Any]:
    """The names of the options, each with its annotation."""
    signature = read_signature(LAUNCHER)
    parameters = {} if signature is None else signature.parameters
    return {name: parameter.annotation for name, parameter in parameters.items()}


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse a value of an option that is outside of its range; null stands for the default.

    Raises:
        UsageError: naming the option.
    """
    for name, annotation in read_options().items():
        value = given.get(name)
        if value is not None and not accepts(value, annotation):
            raise UsageError(
                f"hydra.launcher.{name} must be {describe(annotation)}, got {show(value)}"
            )
