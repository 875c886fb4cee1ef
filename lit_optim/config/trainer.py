"""The arguments of Lightning's Trainer, with narrower ranges than its own; without importing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from lit_optim.config.targets import MULTI_GROUPS
from lit_optim.errors import UsageError, show
from lit_optim.hyperparameters import accepts, describe
from lit_optim.run_length import UNLIMITED, count_updates_of_run, require_updates

Count = Annotated[int, "> 0"]
OrNone = Annotated[int, ">= 0"]
Share = Annotated[float, "in (0, 1]"]

#: Keys that Lightning's Trainer does not have: the run reads them.
OWN_KEYS = ("gradient_release", "threads")
#: Outside of these Lightning divides by zero, complains after the data are loaded, or does nothing.
TAKES: dict[str, Any] = {
    "accelerator": str,
    "strategy": str | dict[str, Any],
    "devices": str | int | list[int],
    "max_steps": Annotated[int, ">= -1"],
    "max_epochs": Annotated[int, ">= -1"] | None,
    "min_steps": Count | None,
    "min_epochs": Count | None,
    "accumulate_grad_batches": Count,
    "gradient_clip_val": Annotated[float, "> 0"] | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "gradient_release": bool,
    "check_val_every_n_epoch": Count | None,
    "limit_train_batches": Count | Share | None,
    "limit_val_batches": OrNone | Share | None,
    "limit_test_batches": OrNone | Share | None,
    "limit_predict_batches": OrNone | Share | None,
    "overfit_batches": OrNone | Annotated[float, "in [0, 1]"],
    "fast_dev_run": bool | OrNone,
    "log_every_n_steps": OrNone | None,
    "num_sanity_val_steps": Annotated[int, ">= -1"] | None,
    "num_nodes": Annotated[int, "in [1, 100000]"],
    "reload_dataloaders_every_n_epochs": OrNone,
    "threads": Annotated[int, "in [1, 1024]"] | None,
    "profiler": Literal["simple", "advanced", "pytorch"] | None,
}
DEVICES = re.compile(r"auto|-1|[1-9]\d*|\d+\s*,[\d\s,]*")
TIME = re.compile(r"\d\d:\d\d:\d\d:\d\d")  # days, hours, minutes, seconds
UNITS = ("weeks", "days", "hours", "minutes", "seconds")


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse what the Trainer accepts and does not do.

    Raises:
        UsageError: naming the key, what was given and what is allowed.
    """
    for group in MULTI_GROUPS:
        if group in trainer:
            raise UsageError(f"trainer.{group} is made of the group {group}; choose {group}=...")
    if "default_root_dir" in trainer:
        raise UsageError("trainer.default_root_dir is the run's directory: set hydra.run.dir")
    steps, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    require_updates(steps, epochs)
    for key, annotation in TAKES.items():
        if key in trainer and not accepts(trainer[key], annotation):
            raise UsageError(
                f"trainer.{key} must be {describe(annotation)}, got {show(trainer[key])}"
            )
    _check_devices(trainer.get("devices"))
    for key in ("max_time", "val_check_interval"):
        _check_time(f"trainer.{key}", trainer.get(key), counts=key != "max_time")
    if steps in UNLIMITED and epochs in UNLIMITED and trainer.get("max_time") is None:
        raise UsageError("the run has no end: set trainer.max_steps or trainer.max_epochs")
    for least, most in (("min_steps", steps), ("min_epochs", epochs)):
        if trainer.get(least) is not None and most not in UNLIMITED and trainer[least] > most:
            key = least.replace("min", "max")
            raise UsageError(f"trainer.{least}={trainer[least]}, but trainer.{key}={most}")
    if trainer.get("gradient_clip_algorithm") == "value" and not trainer.get("gradient_clip_val"):
        raise UsageError(
            "trainer.gradient_clip_algorithm=value does nothing without trainer.gradient_clip_val"
        )
    interval = trainer.get("val_check_interval")
    if trainer.get("check_val_every_n_epoch", 1) is None and isinstance(interval, float):
        raise UsageError(
            f"trainer.val_check_interval={interval} is a part of an epoch; with "
            "check_val_every_n_epoch=null it must be a whole number of batches"
        )


def _check_devices(devices: Any) -> None:
    if isinstance(devices, str | int) and not DEVICES.fullmatch(str(devices).strip()):
        raise UsageError(
            "trainer.devices must be a number of devices > 0, their indices such as '0,1', or auto "
            f"or -1 for all, got {show(devices)}"
        )


def _check_time(path: str, value: Any, counts: bool) -> None:
    """Hold a length of time, or where it `counts` of batches too, against what Lightning reads."""
    if value is None or (counts and accepts(value, Count | Share)):
        return
    if isinstance(value, str) and TIME.fullmatch(value):
        return
    amounts = value.values() if isinstance(value, Mapping) and set(value) <= set(UNITS) else ()
    if any(amounts) and all(accepts(amount, Annotated[float, ">= 0"]) for amount in amounts):
        try:
            timedelta(**value)
        except OverflowError:
            raise UsageError(f"{path} must be at most {timedelta.max.days:,} days") from None
        return
    first = "a whole number of batches, a part of an epoch in (0, 1], " if counts else ""
    raise UsageError(
        f"{path} must be {first}null, a time such as 00:01:30:00 (days:hours:minutes:seconds) or "
        f"{{hours: 1.5}}, got {show(value)}"
    )


def run_length(trainer: Mapping[str, Any]) -> int | None:
    """Count the updates of a run; None if that takes its data."""
    if trainer.get("fast_dev_run"):
        return None
    return count_updates_of_run(trainer.get("max_steps", -1), trainer.get("max_epochs"))
