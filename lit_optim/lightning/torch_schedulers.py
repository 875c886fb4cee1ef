"""Schedulers of torch in `configure_optimizers`, which Lightning steps as it always does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lit_optim.lightning_classes import LightningModule
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.monitor import declared_monitor

#: Those that torch's documentation steps after every batch; the others after every epoch.
PER_BATCH = (OneCycleLR, CyclicLR)


@dataclass(frozen=True)
class TorchScheduler:
    """A scheduler of torch, or a function of the optimizer that gives one.

    Args:
        given: by the user.
        settings: of Lightning for it, such as `interval`.
    """

    given: Any
    settings: Mapping[str, Any] = field(default_factory=dict)


def is_torch_scheduler(value: Any) -> bool:
    """Whether a value is a scheduler of torch, its class or a partial of it, but not ours."""
    kind = getattr(value, "func", value)
    kind = kind if inspect.isclass(kind) else type(kind)
    return issubclass(kind, LRScheduler) or kind.__module__ == "torch.optim.lr_scheduler"


def as_lightning_expects(
    scheduler: LRScheduler, settings: Mapping[str, Any], module: LightningModule
) -> dict[str, Any]:
    """Return the configuration of a scheduler for Lightning.

    Args:
        scheduler: of torch or of another package, or ours.
        settings: the user's, such as `interval`.
        module: may declare a monitor, which ReduceLROnPlateau follows.
    """
    if isinstance(scheduler, ScheduledLR):
        return {"scheduler": scheduler, "interval": "step", "frequency": 1, "name": "lr"}
    config = {"interval": "step" if isinstance(scheduler, PER_BATCH) else "epoch", "name": "lr"}
    if isinstance(scheduler, ReduceLROnPlateau):
        config["monitor"] = declared_monitor(module)[0]
    return config | dict(settings) | {"scheduler": scheduler}
