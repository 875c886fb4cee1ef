"""Schedules that follow a metric: it is told to them after every validation."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_optim.errors import UsageError, suggest
from lit_optim.lightning.callbacks import validates
from lit_optim.schedules.adapter import ScheduledLR


class Observer(Callback):
    """Tells a schedule its metric, the mean over all ranks.

    Raises:
        ValueError: nothing is validated, or the metric is not logged.
    """

    def __init__(self, scheduler: ScheduledLR) -> None:
        follows = scheduler.curve.follows
        assert follows is not None
        self.scheduler = scheduler
        self.monitor = str(follows.monitor)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not validates(trainer):
            raise UsageError(f"the schedule follows {self.monitor}, but nothing is validated")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            near, known = suggest(self.monitor, metrics), ", ".join(metrics) or "nothing"
            raise UsageError(f"monitor={self.monitor} is not logged{near} (logged: {known})")
        fitting = trainer.state.fn == TrainerFn.FITTING  # else somebody validates for himself
        if fitting and not trainer.sanity_checking:
            value = torch.as_tensor(metrics[self.monitor], device=trainer.strategy.root_device)
            mean = trainer.strategy.reduce(value.double(), reduce_op="mean")
            self.scheduler.observe(float(mean))


def follow(trainer: Trainer, scheduler: ScheduledLR) -> None:
    """Have the trainer tell `scheduler` its metric from now on, and no other one before it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [c for c in callbacks if not isinstance(c, Observer)]
    callbacks.insert(0, Observer(scheduler))
