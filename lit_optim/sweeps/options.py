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


def find_options(launcher: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a sweep that are set; a setting of the same name is the default of one.

    Args:
        launcher: the configuration of our launcher.
        config: of the sweep.

    Raises:
        UsageError: one is outside of its range.
    """
    check_options(launcher)
    settings = {name: config[name] for name in read_options() if name in config}
    given = {name: launcher.get(name) for name in read_options()}
    return settings | {name: value for name, value in given.items() if value is not None}
