"""The optimizers of a fit with their schedules, and which update comes next, for the logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from lit_optim.group_fields import group_name
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.updates import Listener, Updates, count_updates, innermost_optimizer


@dataclass
class Tracked:
    """An optimizer while it trains.

    Args:
        optimizer: as the module has made it.
        updates: its counter.
        schedule: of its lr, where it has one of ours.
        prefix: of its tags: nothing, or with several optimizers its name and a slash.
        offset: what its counter is behind the updates that the run has made of it.
    """

    optimizer: Optimizer
    updates: Updates
    schedule: ScheduledLR | None
    prefix: str
    offset: int

    @property
    def made(self) -> int:
        """The updates that the run has made of it, so also the index of the next one."""
        return self.updates.count + self.offset

    def groups(self) -> list[tuple[str, dict[str, Any]]]:
        """Its param groups that have parameters, each with the end of its tags."""
        filled = [group for group in self.optimizer.param_groups if group["params"]]
        return [
            (f"{self.prefix}{group_name(group, index)}", group)
            for index, group in enumerate(filled)
        ]

    def tag_of(self, place: int) -> str:
        """The end of the tags of the group at a place among all."""
        return f"{self.prefix}{group_name(self.optimizer.param_groups[place], place)}"


def track_optimizers(trainer: Trainer, listener: Listener) -> list[Tracked]:
    """Have `listener` told of each update before the schedules move; when training starts."""
    found = []
    optimizers = trainer.optimizers
    for optimizer, prefix in zip(optimizers, _prefixes(optimizers), strict=True):
        updates, schedule = count_updates(optimizer), schedule_of(trainer, optimizer)
        updates.listen(listener, first=True)
        made = schedule.last_epoch if schedule is not None else 0
        made = made or trainer.global_step // len(optimizers)  # it goes on, or fits again
        found.append(Tracked(optimizer, updates, schedule, prefix, made - updates.count))
    return found


def find_tracked(tracked: list[Tracked], updates: Updates) -> Tracked | None:
    """That one whose counter it is."""
    return next((one for one in tracked if one.updates is updates), None)


def schedules_of(trainer: Trainer) -> list[ScheduledLR]:
    """Our schedules of the lrs of this fit."""
    found = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [scheduler for scheduler in found if isinstance(scheduler, ScheduledLR)]


def schedule_of(trainer: Trainer, optimizer: Optimizer) -> ScheduledLR | None:
    """Our schedule of the lr of an optimizer."""
    innermost = innermost_optimizer(optimizer)
    schedules = schedules_of(trainer)
    return next((s for s in schedules if innermost_optimizer(s.optimizer) is innermost), None)


def _prefixes(optimizers: list[Optimizer]) -> list[str]:
    """Of the tags of each; one that is alone needs none, and those of a class have numbers."""
    names = [type(innermost_optimizer(optimizer)).__name__ for optimizer in optimizers]
    if len(names) < 2:
        return [""] * len(names)
    numbered = [
        f"{name}{names[:k].count(name)}" if names.count(name) > 1 else name
        for k, name in enumerate(names)
    ]
    return [f"{name}/" for name in numbered]
