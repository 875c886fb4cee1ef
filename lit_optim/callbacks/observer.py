"""Schedules that follow a metric: they are told it after every validation or every few updates."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import accumulation_dtype
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.lengths import is_of_earlier_fit
from lit_optim.training.monitor import is_settled, require_direction, require_logged, validates


class Observer(Callback):
    """Tells a schedule its metric, the mean over all ranks.

    A metric that is not logged is found before the first update, by the validation that Lightning
    tries then; one of training after the first update. Then too its direction is known, or refused.

    Raises:
        ValueError: nothing is validated, the metric is not logged, or it has no known direction.
    """

    def __init__(self, scheduler: ScheduledLR) -> None:
        follows = scheduler.curve.follows
        assert follows is not None
        self.scheduler = scheduler
        self.monitor = str(follows.monitor)
        self.mode = follows.mode
        self._validated: set[str] = set()
        self._step = 0  # the updates made when it was looked last

    @property
    def every(self) -> int:
        """How many updates lie between two observations; 0: a validation."""
        return self.scheduler.curve.observed_every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._step = self.scheduler.last_epoch
        if self._step:  # it goes on: the metric was there, and comes again with the next validation
            self._validated.add(self.monitor)
        if not self.every and not validates(trainer):
            raise UsageError(f"the schedule follows {self.monitor}, but nothing is validated")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self.every:
            self._validated |= set(trainer.callback_metrics)
            return
        self._require(trainer)
        fitting = trainer.state.fn == TrainerFn.FITTING  # else somebody validates for himself
        if fitting and not trainer.sanity_checking:
            self._observe(trainer)

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, before = self.scheduler.last_epoch, self._step
        if not self.every or step == before:
            return
        self._step = step
        if self.monitor not in self._validated:  # before the first validation it has no value yet
            self._require(trainer)
        is_time = step // self.every > before // self.every  # a batch may make several updates
        if is_time and self.monitor in trainer.callback_metrics:
            self._observe(trainer)

    def _require(self, trainer: Trainer) -> None:
        require_logged(trainer, self.monitor)
        if is_settled(trainer, self.monitor):
            self._set_direction(trainer)

    def _set_direction(self, trainer: Trainer) -> None:
        if self.mode is None:
            self.mode = require_direction(trainer, self.monitor)
            self.scheduler.curve.set_direction(self.mode)

    def _observe(self, trainer: Trainer) -> None:
        self._set_direction(trainer)
        metric = trainer.callback_metrics[self.monitor]
        value = torch.as_tensor(metric, device=trainer.strategy.root_device)
        precise = value.to(accumulation_dtype(value.device))
        mean = trainer.strategy.reduce(precise, reduce_op="mean")
        self.scheduler.observe(float(mean))


def follow(trainer: Trainer, scheduler: ScheduledLR) -> None:
    """Have the trainer tell `scheduler` its metric from now on, and no other one of an earlier fit.

    At least one batch is validated before training, so that a wrong name costs none of it.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [
        c
        for c in callbacks
        if not (isinstance(c, Observer) and is_of_earlier_fit(trainer, c.scheduler.optimizer))
    ]
    callbacks.insert(0, Observer(scheduler))
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.num_sanity_val_steps = trainer.num_sanity_val_steps or 1
