"""The lr of each update that a command line stands for, without model and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from lit_optim.command_line.combinations import compose_combinations
from lit_optim.config.check import lr_of, make_schedule, to_plain
from lit_optim.config.lr import lr_origin
from lit_optim.errors import UsageError
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import Horizon


@dataclass(frozen=True)
class LrPlan:
    """The lr of a run.

    Args:
        name: of the schedule, with the values that distinguish it.
        curve: as used in training; None: a constant lr.
        lr: the optimizer's own; 1 if it has none.
        steps: the number of updates.
        lr_note: where the lr comes from, unless it was typed.
    """

    name: str
    curve: Curve | None
    lr: float
    steps: int
    lr_note: str = ""

    def at(self, t: int) -> float:
        """The lr of update t = 0, 1, ..."""
        return self.lr if self.curve is None else self.curve(t, self.lr)

    def milestones(self) -> list[int]:
        """The updates at which a phase begins or ends."""
        if self.curve is None:
            return sorted({0, self.steps - 1})
        return [mark for mark in self.curve.milestones() if mark < self.steps]


def plan_lr(lines: list[str], steps_per_epoch: int | None = None) -> list[LrPlan]:
    """Plan the lr for each combination of the values in these overrides.

    Args:
        lines: `scheduler=wsd,linear trainer.max_steps=1000`.
        steps_per_epoch: updates per epoch, if a length is in epochs; the data are not read.

    Raises:
        UsageError: the first mistake, or the length of the run is unknown.
    """
    plans = []
    for name, cfg in compose_combinations(lines):
        plain = to_plain(cfg)
        lr = lr_of(plain["optimizer"])
        schedule = make_schedule(plain["scheduler"])
        steps = _steps(plain["trainer"], steps_per_epoch)
        curve = None
        if schedule is not None:
            horizon = _horizon(plain, schedule, steps, steps_per_epoch)
            steps, curve = steps or horizon.steps, schedule.curve(horizon)
        if steps is None:
            raise UsageError(RUN)
        note = _note_origin(cfg, plain["optimizer"])
        plans.append(LrPlan(name, curve, 1.0 if lr is None else lr, steps, note))
    return plans


def _note_origin(cfg: DictConfig, optimizer: Mapping[str, Any]) -> str:
    """Name the optimizer, its lr, and what has set it; empty if the lr was typed or is null."""
    lr, origin = optimizer.get("lr"), lr_origin(cfg, cfg.hydra)
    if not isinstance(lr, int | float) or origin == "typed":
        return ""
    return f"optimizer {cfg.hydra.runtime.choices['optimizer']}, lr {lr:g} ({origin})"


EPOCHS = "{} in epochs, and the data, which define their length, are not read here: "
RUN = EPOCHS.format("the run is") + "use --steps-per-epoch=N, or trainer.max_steps"
SCHEDULE = EPOCHS.format("the schedule is") + "use --steps-per-epoch=N"


def _steps(trainer: Mapping[str, Any], steps_per_epoch: int | None) -> int | None:
    """The length of the run; None where it is in epochs of unknown length."""
    steps, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    if epochs in (None, -1):
        return int(steps) if steps > 0 else None
    if steps_per_epoch is None:
        return None
    whole = epochs * steps_per_epoch
    return int(min(whole, steps) if steps > 0 else whole)


def _horizon(
    plain: Mapping[str, Any], schedule: Schedule, steps: int | None, steps_per_epoch: int | None
) -> Horizon:
    if "epoch" in schedule.units and steps_per_epoch is None:
        raise UsageError(SCHEDULE)
    batch = plain["data"].get("batch_size")
    accumulated = plain["trainer"].get("accumulate_grad_batches", 1)
    samples = batch * accumulated if isinstance(batch, int) else None
    if schedule.total is not None:
        steps = int(Horizon(1, steps_per_epoch, samples).resolve("total", schedule.total))
    if steps is None:
        raise UsageError(RUN)
    return Horizon(steps, steps_per_epoch, samples)
