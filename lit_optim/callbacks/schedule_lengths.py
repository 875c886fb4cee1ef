"""Schedules in a run: several share its length, a wrong length is reported, a replaced one ends."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from lit_optim.errors import how_many
from lit_optim.lightning_classes import LightningModule, Trainer
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.lengths import (
    ONE_PER_BATCH,
    Share,
    batches_of_fit,
    has_reached_max_steps,
    planned_accumulation,
    run_length,
    updates_left,
)
from lit_optim.training.overrides import FitCallback
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

#: By what share the length of a schedule may miss that of the run without a warning: a loss scaler
#: skips a few steps in any run.
TOLERANCE = 0.01
#: In manual optimization the updates are counted after this many batches, to warn early of a
#: schedule that will miss the end of the run by more than `EARLY_TOLERANCE`.
EARLY_BATCHES = 100
EARLY_TOLERANCE = 0.2


@dataclass
class _Planned:
    """A schedule, and what is known about the updates of its optimizer."""

    scheduler: ScheduledLR
    share: Share
    first: int = 0  # the updates before this fit
    is_configured: bool = False  # whether the trainer has the scheduler when the training starts

    @property
    def name(self) -> str:
        """The name of the optimizer."""
        return type(innermost_optimizer(self.scheduler.optimizer)).__name__

    @property
    def has_length_of_run(self) -> bool:
        """Whether the schedule has the length of the run, not one that the user has set."""
        made_of = self.scheduler.curve.source
        return made_of is not None and made_of[0].total is None and self.scheduler.horizon != "keep"

    def misses(self, updates: float, tolerance: float = TOLERANCE, more: float = 0.0) -> bool:
        """Whether the schedule does not end with a run of this many updates.

        Args:
            updates: in the run.
            tolerance: allowed, as a share of the length.
            more: allowed as well, in updates.
        """
        curve = self.scheduler.curve
        allowed = tolerance * curve.total + more
        return abs(updates - curve.total) > allowed and curve.depends_on_length

    @property
    def setting(self) -> str:
        """The argument that gives the length: of the schedule, or of configure_optimizers."""
        return "total" if self.share.steps is None else "steps"


class ScheduleLengths(FitCallback):
    """Divides the run among the schedules of several optimizers, and reports a wrong length.

    A schedule that another callback replaces in the trainer, such as Lightning's
    StochasticWeightAveraging, ends there.

    Args:
        scheduler: of this fit.
        share: what is known about the updates of its optimizer.
    """

    def __init__(self, scheduler: ScheduledLR, share: Share = ONE_PER_BATCH) -> None:
        self._planned = [_Planned(scheduler, share)]
        self._accumulated: int | None = None  # batches of an update, as the lengths assume
        self._has_warned = False  # of another accumulation
        self._batches = 0  # of this fit
        self._first_epoch = self._first_step = 0

    @property
    def schedulers(self) -> list[ScheduledLR]:
        """The schedules of this fit."""
        return [planned.scheduler for planned in self._planned]

    def is_stale(self, trainer: Trainer) -> bool:
        return self.is_of_earlier_fit(trainer)

    def merge(self, other: ScheduleLengths) -> bool:
        self._planned += other._planned
        return True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._accumulated = None
        # an attempt to fit that failed may have left others
        own = {innermost_optimizer(optimizer) for optimizer in trainer.optimizers}
        self._planned = [
            p for p in self._planned if innermost_optimizer(p.scheduler.optimizer) in own
        ]
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # a schedule does not know how many optimizers follow, and other callbacks may have changed
        # the accumulation; nothing has been restored yet
        shares = [self._share_of(optimizer) for optimizer in trainer.optimizers]
        for planned in self._of_run():
            steps = run_length(trainer, planned.share, shares)
            if steps != planned.scheduler.curve.total:
                planned.scheduler.set_length(steps)
        self._accumulated = trainer.accumulate_grad_batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = 0
        self._first_epoch, self._first_step = trainer.current_epoch, trainer.global_step
        for planned in self._planned:
            planned.first = planned.scheduler.last_epoch
            planned.is_configured = not _is_replaced(trainer, planned.scheduler)
            planned.scheduler.is_replaced = False  # where it is kept between fits

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        expected = planned_accumulation(trainer, trainer.current_epoch) or self._accumulated
        now = trainer.accumulate_grad_batches
        if expected in (None, now):
            return
        self._accumulated = now
        updates = trainer.global_step + updates_left(trainer)
        for planned in self._of_run() if trainer.is_global_zero else ():
            if planned.misses(updates) and not self._has_warned:
                self._has_warned = True
                LOG.warning(
                    f"accumulate_grad_batches is {now} now, and was {expected}: the run will make "
                    f"{how_many(updates, 'update')}, but the schedule of {planned.name} was made "
                    f"for {planned.scheduler.curve.total}; {planned.setting} sets its length"
                )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for planned in self._planned:
            if planned.is_configured:
                planned.scheduler.is_replaced = _is_replaced(trainer, planned.scheduler)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        if self._batches != EARLY_BATCHES or pl_module.automatic_optimization:
            return
        self._check_rates(trainer)

    def _check_rates(self, trainer: Trainer) -> None:
        """Warn if optimizers make more or fewer updates per batch than their schedules assume."""
        steps_per_batch = (trainer.global_step - self._first_step) / EARLY_BATCHES
        batches = batches_of_fit(trainer, self._first_epoch, steps_per_batch, self._first_step)
        if not math.isfinite(batches) or self._accumulated is None or not trainer.is_global_zero:
            return
        for planned in self._of_run():
            made = planned.scheduler.last_epoch - planned.first
            updates = planned.first + made * batches / EARLY_BATCHES
            # one update more or less may be a matter of when it is counted
            if planned.misses(updates, EARLY_TOLERANCE, batches / EARLY_BATCHES):
                LOG.warning(
                    f"{planned.name} has made {how_many(made, 'update')} in {EARLY_BATCHES} "
                    f"batches, so the run will make about {updates:.0f}, but its schedule was made "
                    f"for {planned.scheduler.curve.total}: updates_per_batch or steps, arguments "
                    "of configure_optimizers, set its length"
                )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        was_stopped = trainer.should_stop and not has_reached_max_steps(trainer)
        was_stopped = was_stopped or trainer.interrupted
        if was_stopped or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        for planned in self._of_run():
            updates = planned.scheduler.last_epoch
            if not _is_replaced(trainer, planned.scheduler) and planned.misses(updates):
                LOG.warning(
                    f"the schedule of {planned.name} was made for {planned.scheduler.curve.total} "
                    f"updates, but the run made {updates}: {planned.setting}={updates} lets it end "
                    "with the run"
                )

    def _of_run(self) -> list[_Planned]:
        return [planned for planned in self._planned if planned.has_length_of_run]

    def _share_of(self, optimizer: Optimizer) -> Share:
        innermost = innermost_optimizer(optimizer)
        for planned in self._planned:
            if innermost_optimizer(planned.scheduler.optimizer) is innermost:
                return planned.share
        return ONE_PER_BATCH


def _is_replaced(trainer: Trainer, scheduler: ScheduledLR) -> bool:
    """Whether the trainer steps another scheduler of the same optimizer instead, such as SWA's."""
    configured: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    if scheduler in configured:
        return False
    for container in configured:  # torch's chains and sequences, which may contain each other
        configured += getattr(container, "_schedulers", ())
    if any(one is scheduler for one in configured):
        return False
    optimizer = innermost_optimizer(scheduler.optimizer)
    optimizers = [getattr(one, "optimizer", None) for one in configured]
    return any(innermost_optimizer(one) is optimizer for one in optimizers if one is not None)
