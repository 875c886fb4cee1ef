"""`schedule`: the lr of an optimizer along a schedule, in any training loop."""

from __future__ import annotations

from torch.optim import Optimizer

from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.attach import attach
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.library import constant
from lit_optim.schedules.registry import find_schedule

#: The arguments of `schedule` about the length of the run, which the classes of
#: `lit_optim.lr_schedulers` take too.
LENGTHS = ("steps", "steps_per_epoch", "horizon")


class NamedSchedule(ScheduledLR):
    """The base of the classes of `lit_optim.lr_schedulers`, which return a plain `ScheduledLR`."""


def schedule(
    optimizer: Optimizer,
    sched: Schedule | str | None,
    *,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    horizon: HorizonPolicy = "error",
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
        sched: from `lit_optim.schedules`, or the name of one, which then has its defaults; None: a
            constant lr.
        steps: the number of updates in the run; not needed if the schedule has its own `total`, or
            does not depend on it.
        steps_per_epoch: the number of updates in an epoch, if the schedule counts epochs.
        horizon: what `load_state_dict` does if the saved schedule had another length; see
            `ScheduledLR`.

    Raises:
        UsageError: the optimizer has no lr, there is no such schedule, a length is wrong or
            missing, or a floor of the schedule is above the lr.
    """
    if isinstance(sched, str):
        sched = find_schedule(sched)
    return attach(sched or constant(), optimizer, steps, steps_per_epoch, horizon)
