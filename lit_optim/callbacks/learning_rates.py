"""Logs learning rates and scheduled hyperparameters, under the same tags for every optimizer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_optim.lightning_classes import Callback, LightningModule, Logger, Trainer, is_a
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.lengths import total_updates
from lit_optim.training.tracked import (
    TrackedOptimizer,
    find_tracked_optimizer,
    schedules_of,
    track_optimizers,
)
from lit_optim.updates import Updates
from lit_optim.wrappers import unwrap

LOG = logging.getLogger("lit_optim")

#: The approximate number of points of a plan, and the most milestones of the schedule among them.
POINTS = 250
MARKS = 50


class LearningRates(Callback):
    """Logs `lr/<group>`: at step k the lr that update k used.

    The tag is the same for every optimizer, so that the curves of runs can be overlaid. The first
    and the last update are always logged, and every `trainer.log_every_n_steps` in between. A
    skipped step (a loss of None, an overflow) is not an update. If the optimizer scales the lr
    itself, `effective_lr/<group>` is logged too.

    TensorBoard also gets `plan/<group>` before the first update: the values that the schedule will
    have, computed by the schedule itself. A plan has a few hundred points at most, in a long run at
    steps at which `lr/<group>` will be logged. A schedule that follows a metric has no plan, nor
    has one that multiplies the current lr.

    If an epoch changes its length during training, so that the run and its schedule no longer end
    together, a warning says so. After the end of the schedule the lr stays constant.

    Other scheduled hyperparameters are logged in the same way, as `weight_decay/<group>` and
    `plan/weight_decay/<group>`.

    With several optimizers the tags contain their names, `lr/<optimizer>/<group>`, and the steps
    are the updates of each optimizer.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None  # during training
        self._tracked: list[TrackedOptimizer] = []
        self._used: dict[Updates, _Used] = {}  # the newest of each optimizer
        self._batches: float | None = None  # in an epoch
        self._length: int | None = None  # of the run, in updates

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before, batches = self._length, self._batches
        self._length, self._batches = total_updates(trainer), trainer.num_training_batches
        if batches in (None, self._batches) or before == self._length or not trainer.is_global_zero:
            return
        for schedule in schedules_of(trainer):
            if (
                schedule.curve.total == before and schedule.curve.depends_on_length
            ):  # made for this run
                LOG.warning(
                    f"an epoch has {self._batches} batches now, and had {batches}: the run has "
                    f"{self._length} updates, but its schedule was made for {before}"
                )
                return

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches, self._used, self._trainer = None, {}, trainer
        self._tracked = track_optimizers(trainer, self)
        loggers = [x for x in trainer.loggers if is_a(x, "loggers.TensorBoardLogger")]
        for one in self._tracked if loggers else ():
            if one.schedule is not None and not one.schedule.curve.state_dict():
                self._log_plan(trainer, loggers, one, one.schedule)

    def _log_plan(
        self,
        trainer: Trainer,
        loggers: list[Logger],
        tracked: TrackedOptimizer,
        schedule: ScheduledLR,
    ) -> None:
        # in manual optimization the length of the run does not count the updates of an optimizer
        automatic = trainer.lightning_module.automatic_optimization
        length = total_updates(trainer) if automatic else None
        first = schedule.last_epoch
        before = tracked.update_count - first  # updates of earlier fits
        total = schedule.curve.total if length is None else length - before
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        for t in plan_steps(first, total, every, schedule.curve.milestones()):
            values = {
                f"plan/{tag}": schedule.curve(t, float(group["initial_lr"]))
                for tag, group in tracked.groups()
            } | _plans(tracked, schedule, t)
            for logger in loggers:
                logger.log_metrics(values, step=t + before)

    def before_update(self, updates: Updates) -> None:
        """Record the lrs that this update uses, and log them if they are due."""
        self._note(updates, ahead=1)

    def after_update(self, updates: Updates) -> None:
        """Do the same for an update in the backward pass, which is not announced."""
        self._note(updates, ahead=0)

    def _note(self, updates: Updates, ahead: int) -> None:
        """Record the lrs of the groups; `ahead` is 1 before the update with them, 0 after it."""
        used, count = self._used.get(updates), updates.count + ahead
        if used is not None and used.count == count:
            return
        tracked, trainer = find_tracked_optimizer(self._tracked, updates), self._trainer
        if tracked is None or trainer is None:
            return
        step, groups = tracked.update_count - 1 + ahead, tracked.optimizer.param_groups
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_due = step == 0 or (every and (step + 1) % every == 0)
        known = used is not None and len(used.lrs) == len(groups)
        is_plain = used.is_plain if used is not None and known else _has_plain_lrs(tracked)
        # few updates are logged, and their tags take longer than a step of a small model
        values = {} if is_plain and not is_due else _lrs(tracked, ahead)
        lrs = [float(group["lr"]) for group in groups]
        used = self._used[updates] = _Used(step, count, is_plain, lrs, values)
        if is_due:
            self._log(trainer, used)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for tracked in self._tracked:
            used = self._used.get(tracked.updates)
            if used is not None and not used.logged:
                lrs = zip(tracked.optimizer.param_groups, used.lrs, strict=False)
                filled = [lr for group, lr in lrs if group["params"]]
                tags = [f"lr/{tag}" for tag, _ in tracked.groups()]
                used.values = used.values or dict(zip(tags, filled, strict=False))
                self._log(trainer, used)
        self._trainer, self._tracked, self._used = None, [], {}

    def _log(self, trainer: Trainer, used: _Used) -> None:
        used.logged = True
        for logger in trainer.loggers:
            logger.log_metrics(used.values, step=used.step)


@dataclass
class _Used:
    """The lrs and the scheduled hyperparameters that an update used.

    Args:
        step: the number of the update in this run.
        count: that of its counter.
        is_plain: whether nothing but the lrs is logged.
        lrs: of all groups.
        values: by tag; empty where only the lrs would be logged, and this update is not.
        logged: whether they have been logged.
    """

    step: int
    count: int
    is_plain: bool
    lrs: list[float]
    values: dict[str, float]
    logged: bool = False


def _has_plain_lrs(tracked: TrackedOptimizer) -> bool:
    """Whether nothing but the lrs of an optimizer is logged."""
    optimizer, schedule = unwrap(tracked.optimizer), tracked.schedule
    if schedule is not None and schedule.hyperparameters:
        return False
    if not isinstance(optimizer, OptimizerBase):
        return True
    groups = [group for group in tracked.optimizer.param_groups if group["params"]]
    owners = [type(optimizer.owner(group)) for group in groups]
    return all(owner.effective_lr is OptimizerBase.effective_lr for owner in owners)


def _lrs(tracked: TrackedOptimizer, ahead: int) -> dict[str, float]:
    values: dict[str, float] = {}
    schedule, optimizer = tracked.schedule, unwrap(tracked.optimizer)
    for scheduled in schedule.hyperparameters if schedule is not None else ():
        for index in scheduled.base_values:
            tag = f"{scheduled.key}/{tracked.tag_of(index)}"
            values[tag] = scheduled.current_value(tracked.optimizer, index)
    for tag, group in tracked.groups():
        values[f"lr/{tag}"] = lr = float(group["lr"])
        if isinstance(optimizer, OptimizerBase):
            effective = _effective_lr(optimizer.owner(group), group, ahead)
            if effective != lr:
                values[f"effective_lr/{tag}"] = effective
    return values


def _plans(tracked: TrackedOptimizer, schedule: ScheduledLR, t: int) -> dict[str, float]:
    """Return the values that other scheduled hyperparameters will have at update t."""
    values = {}
    for scheduled in schedule.hyperparameters:
        for index in scheduled.base_values:
            base = float(schedule.optimizer.param_groups[index]["initial_lr"])
            lr_factor = schedule.curve(t, base) / base if base else 1.0
            tag = f"plan/{scheduled.key}/{tracked.tag_of(index)}"
            values[tag] = scheduled.value_at(t, index, lr_factor)
    return values


def plan_steps(first: int, total: int, every: int, milestones: Sequence[int]) -> list[int]:
    """Choose the updates of a plan: all of a short run, some at equal distances of a long run.

    Args:
        first: the first update of the plan.
        total: the updates of the run.
        every: the distance at which lrs are logged; the points of a sparse plan are among these.
        milestones: updates that are included, unless they are too many. So are the first and the
            last update.
    """
    least = math.ceil((total - first) / POINTS)  # the smallest distance of two points
    if least <= 1:
        return list(range(first, total))
    finer = [step for step in range(least, every + 1) if every % step == 0]
    stride = finer[0] if finer else max(1, every) * math.ceil(least / max(1, every))
    marks = [mark for mark in milestones if first <= mark < total]
    kept = marks if len(marks) <= MARKS else []
    regular = [t for t in range(stride - 1, total, stride) if t >= first]
    return sorted({first, total - 1, *kept, *regular})


def _effective_lr(optimizer: OptimizerBase, group: dict[str, Any], ahead: int) -> float:
    """Return the effective lr of the parameter of the group with the most updates."""
    states = [optimizer.state.get(p, {}) for p in group["params"]]
    state = max(states, key=lambda state: state.get("step", 0))
    kept = optimizer.initial_scalars(group)
    kept = {name: state.get(name, initial) for name, initial in kept.items()}
    return optimizer.effective_lr(group | kept, max(1, state.get("step", 0) + ahead))
