"""Schedules whose length is that of the run: several share it, and a wrong length is reported."""

from __future__ import annotations

import logging
from typing import Any

from lit_optim.lightning_classes import LightningModule, Trainer
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.lengths import has_reached_max_steps, is_of_earlier_fit, run_length
from lit_optim.training.overrides import FitCallback
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

#: By what share the length of a schedule may miss that of the run without a warning: a loss scaler
#: skips a few steps in any run.
TOLERANCE = 0.01


class ScheduleLengths(FitCallback):
    """Divides the run among the schedules of several optimizers, and reports a wrong length.

    Args:
        schedulers: of this fit.
    """

    def __init__(self, schedulers: list[ScheduledLR]) -> None:
        self.schedulers = schedulers

    def is_stale(self, trainer: Trainer) -> bool:
        return any(is_of_earlier_fit(trainer, one.optimizer) for one in self.schedulers)

    def merge(self, other: ScheduleLengths) -> bool:
        self.schedulers += other.schedulers
        return True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # a schedule does not know how many optimizers follow; nothing has been restored yet
        optimizers = len(trainer.optimizers)
        if optimizers > 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for scheduler in filter(_has_length_of_run, self.schedulers):
                scheduler.set_length(run_length(trainer, optimizers))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        was_stopped = trainer.should_stop and not has_reached_max_steps(trainer)
        was_stopped = was_stopped or trainer.interrupted
        if was_stopped or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        for scheduler in filter(_has_length_of_run, self.schedulers):
            if _is_replaced(trainer, scheduler):
                continue
            updates, total = scheduler.last_epoch, scheduler.curve.total
            if abs(updates - total) > TOLERANCE * total and scheduler.curve.depends_on_length:
                name = type(innermost_optimizer(scheduler.optimizer)).__name__
                LOG.warning(
                    f"the schedule of {name} was made for {total} updates, but the run made "
                    f"{updates}: scheduler.total={updates} lets it end with the run"
                )


def _has_length_of_run(scheduler: ScheduledLR) -> bool:
    """Whether the schedule has the length of the run, not one that the user has set."""
    made_of = scheduler.curve.source
    return made_of is not None and made_of[0].total is None and scheduler.horizon != "keep"


def _is_replaced(trainer: Trainer, scheduler: ScheduledLR) -> bool:
    """Whether the trainer steps another scheduler of the same optimizer instead, such as SWA's."""
    configured: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for container in configured:  # torch's chains and sequences, which may contain each other
        configured += getattr(container, "_schedulers", ())
    if any(one is scheduler for one in configured):
        return False
    optimizer = innermost_optimizer(scheduler.optimizer)
    optimizers = [getattr(one, "optimizer", None) for one in configured]
    return any(innermost_optimizer(one) is optimizer for one in optimizers if one is not None)
