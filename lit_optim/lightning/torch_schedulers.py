"""Schedulers of torch in `configure_optimizers`, which Lightning steps as it always does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lit_optim.errors import UsageError, describe_value, first_line
from lit_optim.lightning_classes import LightningModule
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.attach import SCHEDULER_FACTORY
from lit_optim.schedules.core import Schedule
from lit_optim.training.monitor import declared_monitor
from lit_optim.updates import innermost_optimizer

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


def make_scheduler(given: Any, optimizer: Optimizer) -> Schedule | LRScheduler:
    """Return the schedule or the scheduler of an optimizer.

    Args:
        given: a scheduler, a class or a function of the optimizer.
        optimizer: in training.

    Raises:
        UsageError: it gives something else, or a scheduler of another optimizer.
    """
    made = given
    if not isinstance(given, LRScheduler):
        token = SCHEDULER_FACTORY.set(lambda schedule, optimizer: schedule)  # the run is not theirs
        try:
            made = given(optimizer)
        except UsageError:
            raise
        except TypeError as error:
            raise UsageError(
                f"scheduler: {describe_value(given)} cannot be called with the optimizer alone "
                f"({first_line(error)}): give a partial with its arguments"
            ) from error
        finally:
            SCHEDULER_FACTORY.reset(token)
    if isinstance(made, Schedule):
        return made
    if not isinstance(made, LRScheduler):
        raise UsageError(
            f"scheduler: {describe_value(given)}, called with the optimizer, gave "
            f"{describe_value(made)}: it must give a scheduler of torch or a schedule of lit_optim"
        )
    if innermost_optimizer(made.optimizer) is not innermost_optimizer(optimizer):
        raise UsageError(
            f"scheduler: this {type(made).__name__} is of another optimizer than the one given: "
            f"give partial({type(made).__name__}, ...), or its optimizer"
        )
    return made


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
