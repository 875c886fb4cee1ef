"""In what a schedule counts where accelerate steps it: updates, or steps by each process.

Scripts for accelerate create a scheduler of `len(loader) * epochs` steps before `prepare`. After it
N processes share the batches of the loader, so accelerate's scheduler calls `step` of the prepared
one N times after each update (accelerate/scheduler.py): N steps are one update. A schedule that was
created of a prepared optimizer was created after `prepare`, when the loader is as long as an epoch
has updates: it counts updates, as everywhere else.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any


def count_steps_per_update(optimizer: Any, total: int | None, caller: FrameType) -> int:
    """Return how many steps of a schedule one update is; warn if its length does not fit that.

    Args:
        optimizer: the schedule's.
        total: the length of the schedule.
        caller: the frame that calls `step` of the schedule.
    """
    calls = _calls_per_update(caller)
    if calls == 1:
        return 1
    is_prepared = isinstance(optimizer, sys.modules["accelerate.optimizer"].AcceleratedOptimizer)
    if total is not None:
        _warn_of_other_unit(total, is_prepared)
    return 1 if is_prepared else calls


def is_accumulating() -> bool:
    """Whether accelerate skips the `step` of optimizers, because it accumulates gradients."""
    module = sys.modules.get("accelerate.state")
    if module is None or not module.GradientState._shared_state:  # else this would create it
        return False
    return not module.GradientState().sync_gradients


def _calls_per_update(caller: FrameType) -> int:
    """How often accelerate's scheduler calls `step` after an update; 1 for any other caller."""
    module = sys.modules.get("accelerate.scheduler")
    stepper = caller.f_locals.get("self")
    if module is None or not isinstance(stepper, module.AcceleratedScheduler):
        return 1
    if stepper.split_batches or not stepper.step_with_optimizer:
        return 1
    return int(module.AcceleratorState().num_processes)


def _warn_of_other_unit(total: int, is_prepared: bool) -> None:
    """Warn if the length is whole epochs of the loader before `prepare`, but not after, or so."""
    state = sys.modules["accelerate.state"].GradientState()
    loader, accumulated = state.active_dataloader, state.num_steps
    before = getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)
    if loader is None or before is None:  # the loader is not accelerate's, or has no length
        return
    lengths = len(before), len(loader)
    epochs_before, epochs_after = (_whole_epochs(total, n, accumulated) for n in lengths)
    if is_prepared and epochs_before and not epochs_after:
        taken, meant, remedy = "after", "before", "pass the length of the prepared loader"
    elif not is_prepared and epochs_after and not epochs_before:
        taken, meant, remedy = "before", "after", "create the schedule of the prepared optimizer"
    else:
        return
    warnings.warn(
        f"the schedule's {total} steps are counted in batches of the loader as it is {taken} "
        f"accelerator.prepare ({lengths[taken == 'after']} an epoch), but they are "
        f"{epochs_before or epochs_after} epochs of it as it is {meant} "
        f"({lengths[meant == 'after']} an epoch): {remedy}",
        stacklevel=4,
    )


def _whole_epochs(total: int, batches: int, accumulated: int) -> int | None:
    """How many epochs `total` is, rounded as scripts do; None if it is no whole number of them."""
    updates = -(-batches // accumulated)
    for epochs in {
        total // updates,
        total * accumulated // batches,
        -(-total * accumulated // batches),
    }:
        if total in (epochs * updates, epochs * batches // accumulated):
            return epochs
    return None
