"""How many updates a run makes, for the schedules that end with it."""

from __future__ import annotations

import logging
import math

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Horizon
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

#: fast_dev_run makes the first update of a run whose length is not told; any schedule fits this.
FAST_DEV_STEPS = 10**6


def horizon_of(trainer: Trainer, scheduler: Schedule) -> Horizon:
    """The length of the run in optimizer steps: scheduler.total, else what the trainer will do.

    Raises:
        ValueError: neither tells a finite number of steps.
    """
    units = scheduler.units  # a loader is asked only where the answer is needed
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
    """The updates that the trainer will make of an optimizer from now on.

    A trainer that fits again goes on counting, so that what it has done is taken off; not where it
    resumes, for then the schedule is restored, too.

    Args:
        trainer: before it begins to train.
        optimizers: of how many, in manual optimization, where its `max_steps` and `global_step`
            are of all of them.

    Raises:
        ValueError: none, or it cannot tell.
    """
    if trainer.max_steps == 0 or trainer.max_epochs == 0:
        raise UsageError("nothing to train: trainer.max_steps or trainer.max_epochs is 0")
    again = trainer.ckpt_path is None
    left = math.inf
    if trainer.max_steps > 0:
        left = math.ceil((trainer.max_steps - again * trainer.global_step) / optimizers)
    if trainer.max_epochs in (None, -1) and trainer.max_steps > 0:
        return max(1, int(left))
    if any(len(callback.scheduling) > 1 for callback in _accumulation_callbacks(trainer)):
        raise UsageError("accumulation changes during the run: give its length as scheduler.total")
    trainer.estimated_stepping_batches  # noqa: B018  # it sets the loader up, and refuses some
    steps, epochs = _steps_per_epoch(trainer), trainer.max_epochs
    if steps is not None and epochs is not None and epochs > 0:
        left = min(left, steps * (epochs - again * trainer.current_epoch))
    if not math.isfinite(left):
        raise UsageError(
            "cannot tell how long this run is (a loader without length, or a limit in time): "
            "set trainer.max_steps or scheduler.total"
        )
    return max(1, int(left))


def accumulated_batches(trainer: Trainer) -> int:
    """How many batches make an update; also where Lightning's callback says so, from epoch 0 on."""
    for callback in _accumulation_callbacks(trainer):
        return int(callback.scheduling.get(0, 1))
    return trainer.accumulate_grad_batches


def _accumulation_callbacks(trainer: Trainer) -> list[GradientAccumulationScheduler]:
    """Those of the user; full batches have one of their own kind."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [c for c in callbacks if type(c) is GradientAccumulationScheduler]


def _steps_per_epoch(trainer: Trainer) -> int | None:
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if not math.isfinite(batches) or batches < 1:
        return None
    return math.ceil(batches / accumulated_batches(trainer))


def global_batch(trainer: Trainer) -> int | None:
    """The samples of an update, over all devices and accumulated; None where none can tell.

    A sampler that yields whole batches tells their global size itself.
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
    epoch = sized_len(getattr(loader, "dataset", None)) or math.inf  # no update has more
    return int(min(batch * accumulated_batches(trainer), epoch))


def has_reached_max_steps(trainer: Trainer) -> bool:
    """Whether the run has made all the updates of `max_steps`; several optimizers may pass it."""
    return 0 < trainer.max_steps <= trainer.global_step


def is_of_earlier_fit(trainer: Trainer, optimizer: Optimizer) -> bool:
    """Whether an optimizer was made for an earlier fit; asked while optimizers are configured."""
    innermost = innermost_optimizer(optimizer)
    return any(innermost_optimizer(one) is innermost for one in trainer.optimizers)
