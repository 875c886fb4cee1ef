"""Schedules that follow a metric: they are told it after every validation or every few updates."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_optim.errors import UsageError, suggest
from lit_optim.kernels.precision import widest
from lit_optim.lightning.callbacks import validates
from lit_optim.schedules.adapter import ScheduledLR


class Observer(Callback):
    """Tells a schedule its metric, the mean over all ranks.

    A metric that is not logged is found before the first update, by the validation that Lightning
    tries then; one of training after the first update.

    Raises:
        ValueError: nothing is validated, or the metric is not logged.
    """

    def __init__(self, scheduler: ScheduledLR) -> None:
        follows = scheduler.curve.follows
        assert follows is not None
        self.scheduler = scheduler
        self.monitor = str(follows.monitor)
        self.every = scheduler.curve.observed_every
        self._validated: set[str] = set()
        self._step = 0  # that was looked at last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._step = trainer.global_step
        if self._step:  # it goes on: the metric was there, and comes again with the next validation
            self._validated.add(self.monitor)
        if not self.every and not validates(trainer):
            raise UsageError(f"the schedule follows {self.monitor}, but nothing is validated")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self.every:
            self._validated |= set(trainer.callback_metrics)
            return
        self._require(trainer.callback_metrics)
        fitting = trainer.state.fn == TrainerFn.FITTING  # else somebody validates for himself
        if fitting and not trainer.sanity_checking:
            self._observe(trainer)

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every or step == self._step:
            return
        self._step = step
        if self.monitor not in self._validated:  # before the first validation it has no value yet
            self._require(trainer.callback_metrics)
        if step % self.every == 0 and self.monitor in trainer.callback_metrics:
            self._observe(trainer)

    def _require(self, metrics: dict[str, Any]) -> None:
        if self.monitor not in metrics:
            near, known = suggest(self.monitor, metrics), ", ".join(metrics) or "nothing"
            raise UsageError(f"monitor={self.monitor} is not logged{near} (logged: {known})")

    def _observe(self, trainer: Trainer) -> None:
        metric = trainer.callback_metrics[self.monitor]
        value = torch.as_tensor(metric, device=trainer.strategy.root_device)
        precise = value.to(widest(value.device))
        mean = trainer.strategy.reduce(precise, reduce_op="mean")
        self.scheduler.observe(float(mean))


def follow(trainer: Trainer, scheduler: ScheduledLR) -> None:
    """Have the trainer tell `scheduler` its metric from now on, and no other one before it.

    At least one batch is validated before training, so that a wrong name costs none of it.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [c for c in callbacks if not isinstance(c, Observer)]
    callbacks.insert(0, Observer(scheduler))
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.num_sanity_val_steps = trainer.num_sanity_val_steps or 1
