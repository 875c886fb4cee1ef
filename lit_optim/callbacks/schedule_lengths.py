"""Schedules that end with the run: their length with several optimizers, and where it was wrong."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.lengths import is_of_earlier_fit, run_length
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

#: A schedule has ended with its run if it is no more than such a share of it off: a loss scaler
#: skips a few steps in any run.
NEAR = 0.01


class ScheduleLengths(Callback):
    """Fits the schedules of several optimizers to their share of the run, and says what is off.

    Args:
        schedulers: of this fit.
    """

    def __init__(self, schedulers: list[ScheduledLR]) -> None:
        self.schedulers = schedulers

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        # when they were made nobody knew how many there would be; here nothing is restored yet
        optimizers = len(trainer.optimizers)
        if optimizers > 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for scheduler in filter(_ends_with_run, self.schedulers):
                scheduler.set_length(run_length(trainer, optimizers))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        was_stopped = trainer.should_stop and not 0 < trainer.max_steps <= trainer.global_step
        was_stopped = was_stopped or trainer.interrupted
        if was_stopped or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        for scheduler in filter(_ends_with_run, self.schedulers):
            if _is_replaced(trainer, scheduler):
                continue
            made, total = scheduler.last_epoch, scheduler.curve.total
            if abs(made - total) > NEAR * total and scheduler.curve.bounded:
                name = type(innermost_optimizer(scheduler.optimizer)).__name__
                LOG.warning(
                    f"the schedule of {name} was made for {total} updates, but the run made "
                    f"{made}: scheduler.total={made} lets it end with the run"
                )


def _ends_with_run(scheduler: ScheduledLR) -> bool:
    """Whether its length is the run's, and not one that somebody has given."""
    made_of = scheduler.curve.made_of
    return made_of is not None and made_of[0].total is None and scheduler.horizon != "keep"


def _is_replaced(trainer: Trainer, scheduler: ScheduledLR) -> bool:
    """Whether the trainer steps another scheduler of the same optimizer instead, such as SWA's."""
    configured: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for container in configured:  # torch's chains and sequences, which may hold each other
        configured += getattr(container, "_schedulers", ())
    if any(one is scheduler for one in configured):
        return False
    mine = innermost_optimizer(scheduler.optimizer)
    theirs = [getattr(one, "optimizer", None) for one in configured]
    return any(innermost_optimizer(one) is mine for one in theirs if one is not None)


def watch_length(trainer: Trainer, scheduler: ScheduledLR) -> None:
    """Have the length of `scheduler` looked after, beside those made before for the same fit."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in [c for c in callbacks if isinstance(c, ScheduleLengths)]:
        if all(not is_of_earlier_fit(trainer, one.optimizer) for one in callback.schedulers):
            callback.schedulers.append(scheduler)
            return
        callbacks.remove(callback)
    callbacks.append(ScheduleLengths([scheduler]))
