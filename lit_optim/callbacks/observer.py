"""Schedules that follow a metric receive it after every validation or every few updates."""

from __future__ import annotations

from typing import Any

import torch

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import accumulation_dtype
from lit_optim.lightning_classes import LightningModule, Trainer, TrainerFn
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.monitor import has_validation, is_settled, require_direction, require_logged
from lit_optim.training.overrides import FitCallback


class MetricObserver(FitCallback):
    """Passes a schedule its metric, averaged over all ranks.

    A metric that is not logged is refused by the sanity check before the first update, a metric of
    training after the first update. So is a metric whose direction is unknown.

    Args:
        scheduler: follows the metric.

    Raises:
        UsageError: the run does not validate, the metric is not logged, or its direction is
            unknown.
    """

    position = "first"

    def __init__(self, scheduler: ScheduledLR) -> None:
        follows = scheduler.curve.metric
        assert follows is not None
        self.scheduler = scheduler
        self.monitor = str(follows.monitor)
        self.mode = follows.mode
        self._validated: set[str] = set()
        self._step = 0  # the number of updates at the latest batch

    @property
    def every(self) -> int:
        """The updates between two observations; 0: one observation per validation."""
        return self.scheduler.curve.observe_every

    def is_stale(self, trainer: Trainer) -> bool:
        return self.is_of_earlier_fit(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = self.scheduler.last_epoch
        if self._step:  # resumed: the next validation logs the metric again
            self._validated.add(self.monitor)
        if not self.every and not has_validation(trainer):
            raise UsageError(f"the schedule follows {self.monitor}, but nothing is validated")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every:
            self._validated |= set(trainer.callback_metrics)
            return
        self._require(trainer)
        is_fitting = trainer.state.fn == TrainerFn.FITTING  # not trainer.validate()
        if is_fitting and not trainer.sanity_checking:
            self._observe(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, before = self.scheduler.last_epoch, self._step
        if not self.every or step == before:
            return
        self._step = step
        if self.monitor not in self._validated:  # those have no value before the first validation
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
            self.scheduler.curve.set_mode(self.mode)

    def _observe(self, trainer: Trainer) -> None:
        self._set_direction(trainer)
        metric = trainer.callback_metrics[self.monitor]
        value = torch.as_tensor(metric, device=trainer.strategy.root_device)
        precise = value.to(accumulation_dtype(value.device))
        mean = trainer.strategy.reduce(precise, reduce_op="mean")
        self.scheduler.observe(float(mean))
