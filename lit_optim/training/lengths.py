"""Counts the updates of a run and the samples of an update, from a trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lit_optim.errors import UsageError
from lit_optim.lightning_classes import Callback, Trainer, variant_for, variants
from lit_optim.run_length import UNLIMITED, count_updates_of_run, require_updates
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Horizon

LOG = logging.getLogger("lit_optim")

#: fast_dev_run makes the first update of a run of unknown length: this length fits any schedule.
FAST_DEV_STEPS = 10**6


@dataclass(frozen=True)
class Share:
    """What is known about the updates of one optimizer in a run, besides the trainer's settings.

    Args:
        steps: the updates that it makes in the run; None: as many as its `rate` gives.
        rate: its updates per batch; Lightning knows it in automatic optimization.
    """

    steps: int | None = None
    rate: Fraction = Fraction(1)


#: For an optimizer that makes one update for each batch.
ONE_PER_BATCH = Share()


def horizon_of(trainer: Trainer, scheduler: Schedule, share: Share = ONE_PER_BATCH) -> Horizon:
    """Return the length of a schedule in updates: `scheduler.total`, or else that of the run.

    Args:
        trainer: before the training.
        scheduler: of an optimizer.
        share: of that optimizer.

    Raises:
        UsageError: neither is known, or an epoch has no fixed number of updates.
    """
    units = scheduler.units  # the loader is set up only if it is needed
    if units & {"epoch", "sample"} and changes_accumulation(trainer):
        raise UsageError(
            "accumulation changes during the run, so that epochs differ in updates: give the "
            "schedule in steps or %"
        )
    epoch = _steps_per_epoch(trainer, share.rate) if "epoch" in units else None
    samples = global_batch(trainer) if "sample" in units else None
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        steps = FAST_DEV_STEPS
    elif scheduler.total is None:
        steps = run_length(trainer, share, [share])
    else:
        steps = int(Horizon(1, epoch, samples).resolve("total", scheduler.total))
    return Horizon(steps, epoch, samples)


def run_length(
    trainer: Trainer, share: Share = ONE_PER_BATCH, shares: Sequence[Share] = (ONE_PER_BATCH,)
) -> int:
    """Count the updates that the trainer will make with an optimizer from now on.

    A trainer that fits again continues its counters, so what it has done is subtracted; but not
    where it resumes, since the schedule is restored too.

    Args:
        trainer: before the training.
        share: of the optimizer.
        shares: of all optimizers; `max_steps` and `global_step` count the updates of all.

    Raises:
        UsageError: there are none, or their number is unknown.
    """
    if share.steps is not None:
        return share.steps
    require_updates(trainer.max_steps, trainer.max_epochs)
    fits_again = trainer.ckpt_path is None
    steps: int | None = None
    if trainer.max_steps not in UNLIMITED:
        left = trainer.max_steps - fits_again * trainer.global_step
        left -= sum(other.steps for other in shares if other.steps is not None)
        rates = sum(other.rate for other in shares if other.steps is None)
        steps = math.ceil(max(0, left) * share.rate / rates)
    epochs, per_epoch = trainer.max_epochs, None
    if epochs is not None and epochs > 0:
        first = fits_again * trainer.current_epoch
        epochs, per_epoch = 1, _count_updates(trainer, share.rate, first, epochs)
    updates = count_updates_of_run(steps, epochs, per_epoch)
    if updates is None:
        raise UsageError(
            "cannot tell how long this run is (a loader without a length, or a time limit): "
            "set max_steps of the trainer or total of the schedule"
        )
    return max(1, updates)


def total_updates(trainer: Trainer) -> int | None:
    """Count all updates of this fit and of those before, as Lightning does; None if unknown."""
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        steps = _count_updates(trainer, Fraction(1), 0, trainer.max_epochs)
        steps = min(steps, trainer.max_steps) if trainer.max_steps not in UNLIMITED else steps
    else:
        steps = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) and steps > 0 else None


def changes_accumulation(trainer: Trainer) -> bool:
    """Whether Lightning's callback accumulates another number of batches in some epochs."""
    return any(len(set(c.scheduling.values())) > 1 for c in _accumulation_callbacks(trainer))


def updates_left(trainer: Trainer) -> float:
    """Count the updates from this epoch on, if the accumulation stays as it is; may be infinite."""
    batches, left = _batches_per_epoch(trainer), math.inf
    if batches is not None and trainer.max_epochs is not None and trainer.max_epochs > 0:
        epochs = trainer.max_epochs - trainer.current_epoch
        left = epochs * math.ceil(batches / trainer.accumulate_grad_batches)
    limited = trainer.max_steps not in UNLIMITED
    return min(left, trainer.max_steps - trainer.global_step) if limited else left


def batches_of_fit(
    trainer: Trainer, first_epoch: int, steps_per_batch: float, first_step: int
) -> float:
    """Count the batches of a fit that has begun; may be infinite.

    Args:
        trainer: while it fits.
        first_epoch: of the fit.
        steps_per_batch: by how much each batch increases `global_step`.
        first_step: `global_step` when the fit began.
    """
    batches, count = _batches_per_epoch(trainer), math.inf
    if batches is not None and trainer.max_epochs is not None and trainer.max_epochs > 0:
        count = (trainer.max_epochs - first_epoch) * batches
    if trainer.max_steps not in UNLIMITED and steps_per_batch:
        count = min(count, (trainer.max_steps - first_step) / steps_per_batch)
    return count


def accumulated_batches(trainer: Trainer, epoch: int = 0) -> int:
    """Count the batches of an update, as the trainer or Lightning's callback sets them."""
    return planned_accumulation(trainer, epoch) or trainer.accumulate_grad_batches


def planned_accumulation(trainer: Trainer, epoch: int) -> int | None:
    """Return the batches of an update as Lightning's callback will set them; None without it."""
    for callback in _accumulation_callbacks(trainer):
        return int(callback.get_accumulate_grad_batches(epoch))
    return None


def _accumulation_callbacks(trainer: Trainer) -> list[Any]:
    """Return the callbacks that set the accumulation of each epoch as Lightning's own does."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kinds = variants("callbacks.GradientAccumulationScheduler")
    own = [kind.on_train_epoch_start for kind in kinds]
    found = [c for c in callbacks if isinstance(c, kinds)]
    return [c for c in found if type(c).on_train_epoch_start in own]


def _count_updates(trainer: Trainer, rate: Fraction, first: int, end: int) -> float:
    """Count the updates of the epochs from `first` to before `end`; may be infinite."""
    batches = _batches_per_epoch(trainer)
    if batches is None:
        return math.inf
    epochs = max(0, end - first)
    if rate != 1:
        return round(epochs * batches * rate)
    if not changes_accumulation(trainer):
        return epochs * math.ceil(batches / accumulated_batches(trainer))
    return sum(
        math.ceil(batches / accumulated_batches(trainer, epoch)) for epoch in range(first, end)
    )


def _batches_per_epoch(trainer: Trainer) -> int | None:
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    return int(batches) if math.isfinite(batches) and batches >= 1 else None


def _steps_per_epoch(trainer: Trainer, rate: Fraction) -> int | None:
    steps = _count_updates(trainer, rate, 0, 1)
    return max(1, int(steps)) if math.isfinite(steps) else None


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


def is_at_end(trainer: Trainer) -> bool:
    """Whether a fit trains no further: its updates or epochs are made, or it is to stop."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    most = trainer.max_epochs
    is_last_epoch = most is not None and 0 <= most <= progress.processed
    return has_reached_max_steps(trainer) or is_last_epoch or bool(trainer.should_stop)
