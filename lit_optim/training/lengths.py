"""Counts the updates of a run and the samples of an update, from a trainer."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.lightning_classes import Callback, Trainer, variant_for, variants
from lit_optim.run_length import UNLIMITED, count_updates_of_run, require_updates
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Horizon
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

#: fast_dev_run makes the first update of a run of unknown length: this length fits any schedule.
FAST_DEV_STEPS = 10**6


def horizon_of(trainer: Trainer, scheduler: Schedule) -> Horizon:
    """Return the length of a schedule in updates: `scheduler.total`, or else that of the run.

    Raises:
        UsageError: neither is known.
    """
    units = scheduler.units  # the loader is set up only if it is needed
    epoch = _steps_per_epoch(trainer) if "epoch" in units else None
    samples = global_batch(trainer) if "sample" in units else None
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        steps = FAST_DEV_STEPS
    elif scheduler.total is None:
        steps = run_length(trainer)
    else:
        steps = int(Horizon(1, epoch, samples).resolve("total", scheduler.total))
    return Horizon(steps, epoch, samples)


def run_length(trainer: Trainer, optimizers: int = 1) -> int:
    """Count the updates that the trainer will make with an optimizer from now on.

    A trainer that fits again continues its counters, so what it has done is subtracted; but not
    where it resumes, since the schedule is restored too.

    Args:
        trainer: before the training.
        optimizers: how many share the updates, in manual optimization, where `max_steps` and
            `global_step` count those of all optimizers.

    Raises:
        UsageError: there are none, or their number is unknown.
    """
    require_updates(trainer.max_steps, trainer.max_epochs)
    fits_again = trainer.ckpt_path is None
    steps: float | None = None
    if trainer.max_steps not in UNLIMITED:
        left = max(0, trainer.max_steps - fits_again * trainer.global_step)
        steps = math.ceil(left / optimizers)
    epochs, per_epoch = trainer.max_epochs, None
    if epochs not in UNLIMITED or steps is None:
        if any(len(callback.scheduling) > 1 for callback in _accumulation_callbacks(trainer)):
            raise UsageError(
                "accumulation changes during the run: give its length as scheduler.total"
            )
        trainer.estimated_stepping_batches  # noqa: B018  # it sets up the loader, or refuses it
        per_epoch = _steps_per_epoch(trainer) or math.inf
    if epochs is not None and epochs > 0:
        epochs = max(0, epochs - fits_again * trainer.current_epoch)
    updates = count_updates_of_run(steps, epochs, per_epoch)
    if updates is None:
        raise UsageError(
            "cannot tell how long this run is (a loader without length, or a limit in time): "
            "set trainer.max_steps or scheduler.total"
        )
    return max(1, updates)


def total_updates(trainer: Trainer) -> int | None:
    """Count all updates of this fit and of those before, as Lightning does; None if unknown."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) and steps > 0 else None


def accumulated_batches(trainer: Trainer) -> int:
    """Count the batches of an update, as the trainer or Lightning's callback sets them."""
    for callback in _accumulation_callbacks(trainer):
        return int(callback.scheduling.get(0, 1))
    return trainer.accumulate_grad_batches


def _accumulation_callbacks(trainer: Trainer) -> list[Any]:
    """Return Lightning's own callbacks that accumulate, without subclasses."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [c for c in callbacks if type(c) in variants("callbacks.GradientAccumulationScheduler")]


def _steps_per_epoch(trainer: Trainer) -> int | None:
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if not math.isfinite(batches) or batches < 1:
        return None
    return math.ceil(batches / accumulated_batches(trainer))


def global_batch(trainer: Trainer) -> int | None:
    """Count the samples of an update, over all devices and accumulated; None if unknown.

    A sampler that yields batches has their global size as `batch_size`.
    """
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    loader = trainer.train_dataloader
    per_device = getattr(loader, "batch_size", None)
    if per_device is not None:
        batch = per_device * trainer.world_size
    else:
        batch = getattr(getattr(loader, "sampler", None), "batch_size", None)
    if batch is None:
        return None
    size = variant_for(trainer, "utilities.data.sized_len")(getattr(loader, "dataset", None))
    epoch = size or math.inf  # an update has at most these
    return int(min(batch * accumulated_batches(trainer), epoch))


def has_reached_max_steps(trainer: Trainer) -> bool:
    """Whether the run has made all the updates of `max_steps`; several optimizers may pass it."""
    return 0 < trainer.max_steps <= trainer.global_step


def is_of_earlier_fit(trainer: Trainer, optimizer: Optimizer) -> bool:
    """Whether an optimizer belongs to an earlier fit, while optimizers are configured."""
    innermost = innermost_optimizer(optimizer)
    return any(innermost_optimizer(known) is innermost for known in trainer.optimizers)
