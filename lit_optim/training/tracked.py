"""Tracks the updates of each optimizer of a fit, for logging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from lit_optim.group_fields import group_name
from lit_optim.lightning_classes import Trainer
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.updates import Listener, Updates, count_updates, innermost_optimizer


@dataclass
class TrackedOptimizer:
    """An optimizer while it trains.

    Args:
        optimizer: as the module returned it.
        updates: the counter of its updates.
        schedule: of its lr, if lit_optim schedules it.
        prefix: of its tags: its name and a slash with several optimizers, otherwise empty.
        offset: the updates in this run before the counter was created.
    """

    optimizer: Optimizer
    updates: Updates
    schedule: ScheduledLR | None
    prefix: str
    offset: int

    @property
    def update_count(self) -> int:
        """The number of updates in this run, which is the index of the next one."""
        return self.updates.count + self.offset

    def groups(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the nonempty param groups, each with the end of its tags."""
        filled = [group for group in self.optimizer.param_groups if group["params"]]
        return [
            (f"{self.prefix}{group_name(group, index)}", group)
            for index, group in enumerate(filled)
        ]

    def tag_of(self, index: int) -> str:
        """Return the end of the tags of the group at an index among all groups."""
        return f"{self.prefix}{group_name(self.optimizer.param_groups[index], index)}"


def track_optimizers(trainer: Trainer, listener: Listener) -> list[TrackedOptimizer]:
    """Have `listener` called at each update of a training, before schedules change the lr."""
    tracked = []
    optimizers = trainer.optimizers
    for optimizer, prefix in zip(optimizers, _prefixes(optimizers), strict=True):
        updates, schedule = count_updates(optimizer), schedule_of(trainer, optimizer)
        updates.add_listener(listener, first=True)
        count = schedule.last_epoch if schedule is not None else 0
        count = count or trainer.global_step // len(optimizers)  # resumed, or fits again
        tracked.append(
            TrackedOptimizer(optimizer, updates, schedule, prefix, count - updates.count)
        )
    return tracked


def find_tracked_optimizer(
    tracked_optimizers: list[TrackedOptimizer], updates: Updates
) -> TrackedOptimizer | None:
    """Return the tracked optimizer with this counter."""
    for tracked in tracked_optimizers:
        if tracked.updates is updates:
            return tracked
    return None


def schedules_of(trainer: Trainer) -> list[ScheduledLR]:
    """Return the schedules of this fit that are lit_optim's."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [scheduler for scheduler in schedulers if isinstance(scheduler, ScheduledLR)]


def schedule_of(trainer: Trainer, optimizer: Optimizer) -> ScheduledLR | None:
    """Return the schedule of an optimizer, if it is lit_optim's."""
    innermost = innermost_optimizer(optimizer)
    schedules = schedules_of(trainer)
    return next((s for s in schedules if innermost_optimizer(s.optimizer) is innermost), None)


def _prefixes(optimizers: list[Optimizer]) -> list[str]:
    """Return the prefix of the tags of each optimizer; those of the same class are numbered."""
    names = [type(innermost_optimizer(optimizer)).__name__ for optimizer in optimizers]
    if len(names) < 2:
        return [""] * len(names)
    numbered = [
        f"{name}{names[:k].count(name)}" if names.count(name) > 1 else name
        for k, name in enumerate(names)
    ]
    return [f"{name}/" for name in numbered]
