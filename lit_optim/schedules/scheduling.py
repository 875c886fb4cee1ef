"""`schedule`: the lr of an optimizer along a schedule, in any training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from lit_optim.errors import UsageError, describe_value
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.attach import attach
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.given import resolve_schedule
from lit_optim.schedules.library import constant

#: The arguments of `schedule` about the run, taken by the classes of `lit_optim.lr_schedulers` too.
RUN_ARGUMENTS = ("steps", "steps_per_epoch", "horizon", "last_epoch")


class NamedSchedule(ScheduledLR):
    """The base of the classes of `lit_optim.lr_schedulers`, which return a plain `ScheduledLR`."""


def schedule(
    optimizer: Optimizer,
    sched: Schedule | Callable[[], Schedule | None] | str | None,
    *,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    horizon: HorizonPolicy = "error",
    last_epoch: int = -1,
) -> ScheduledLR:
    """Return a torch scheduler that sets the lr of an optimizer along a schedule.

        scheduler = schedule(optimizer, schedules.cosine_warmup("5%"), steps=1000)
        for batch in loader:
            loss(model, batch).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    It counts the updates of the optimizer: more calls of `step` than one per update change
    nothing, and without a call it catches up right before the next update.

    Args:
        optimizer: any optimizer of torch, or a wrapper around one.
        sched: from `lit_optim.schedules`, or the name of one, or its function, which then have
            their defaults; None: a constant lr.
        steps: the number of updates in the run; not needed if the schedule has its own `total`, or
            does not depend on it.
        steps_per_epoch: the number of updates in an epoch, if the schedule counts epochs.
        horizon: what `load_state_dict` does if the saved schedule had another length; see
            `ScheduledLR`.
        last_epoch: to resume without the scheduler's saved state, as in torch: the update before
            the first one; the optimizer's groups must have an `initial_lr`.

    Raises:
        UsageError: the optimizer has no lr, there is no such schedule, a length is wrong or
            missing, or a floor of the schedule is above the lr.
    """
    _check_order(optimizer, sched)
    known = resolve_schedule(sched, "schedule(optimizer, schedule): schedule")
    return attach(known or constant(), optimizer, steps, steps_per_epoch, horizon, last_epoch)


def _check_order(optimizer: Any, sched: Any) -> None:
    if isinstance(sched, Optimizer) and not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"schedule(optimizer, schedule): the first is {describe_value(optimizer)} and the "
            f"second {describe_value(sched)}; they are in the wrong order"
        )
