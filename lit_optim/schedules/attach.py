"""Attaches a schedule to an optimizer, in a loop that knows the number of updates."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from torch.optim import Optimizer

from lit_optim.errors import UsageError, describe_value, show
from lit_optim.group_fields import initial_lr
from lit_optim.hyperparameters import plain
from lit_optim.metric_names import infer_direction
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.curve import CurveSource
from lit_optim.schedules.durations import Horizon, HorizonPolicy
from lit_optim.schedules.metric_adapter import MetricScheduledLR
from lit_optim.updates import innermost_optimizer

#: Where the run is known, as within a module whose `configure_optimizers` the command line calls:
#: builds the scheduler of a schedule and an optimizer.
SCHEDULER_FACTORY: ContextVar[Callable[[Any, Any], Any] | None] = ContextVar(
    "SCHEDULER_FACTORY", default=None
)
#: The length of a schedule that needs none: more updates than any run makes.
ENDLESS = 10**9
IN_A_MODULE = (
    "; a LightningModule, whose trainer knows it, returns "
    "lit_optim.configure_optimizers(self, optimizer, schedule)"
)


class AttachableSchedule(CurveSource, Protocol):
    """What `attach` needs of a `Schedule`."""

    @property
    def units(self) -> set[str]:
        """The units that the horizon must know: "step", "%", "epoch", "sample"."""

    def check(self, lr: float) -> None:
        """Check that no floor is above the largest lr of the optimizer."""


def attach(
    schedule: AttachableSchedule,
    optimizer: Optimizer,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    horizon: HorizonPolicy = "error",
    last_epoch: int = -1,
) -> ScheduledLR:
    """Return the torch scheduler that sets the lr of an optimizer; see `scheduling.schedule`.

    Raises:
        UsageError: the optimizer has no lr, a length is wrong or missing, or a floor of the
            schedule is above the lr.
    """
    if steps is None and (build_scheduler := SCHEDULER_FACTORY.get()) is not None:
        built: ScheduledLR = build_scheduler(schedule, optimizer)
        return built
    lrs = _read_lrs(optimizer)
    steps = _whole_number("steps", steps, "epochs * len(loader)")
    steps_per_epoch = _whole_number("steps_per_epoch", steps_per_epoch, "len(loader)")
    units = schedule.units
    if "epoch" in units and steps_per_epoch is None:
        raise UsageError(
            f"the schedule counts epochs: give steps_per_epoch, such as len(loader){IN_A_MODULE}"
        )
    if "sample" in units:
        raise UsageError("the schedule counts samples, which are not known here: use steps or %")
    schedule.check(max(map(float, lrs)))
    length = _length(schedule, steps, steps_per_epoch)
    curve = schedule.curve(Horizon(length, steps_per_epoch))
    if curve.metric is None:
        return ScheduledLR(optimizer, curve, horizon=horizon, last_epoch=last_epoch)
    if curve.metric.mode is None and curve.metric.monitor is not None:
        curve.set_mode(infer_direction(curve.metric.monitor) or "min")
    return MetricScheduledLR(optimizer, curve, horizon=horizon, last_epoch=last_epoch)


def _read_lrs(optimizer: Any) -> list[Any]:
    """The base lr of each group."""
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            "schedule(optimizer, schedule, steps=...): optimizer must be a torch optimizer, got "
            f"{describe_value(optimizer)}"
        )
    for group in optimizer.param_groups:
        if group.get("lr") is None:
            raise UsageError(
                f"{type(innermost_optimizer(optimizer)).__name__} has no lr that a schedule could "
                "set"
            )
    return [initial_lr(group) for group in optimizer.param_groups]


def _length(schedule: AttachableSchedule, steps: int | None, steps_per_epoch: int | None) -> int:
    """The length of the schedule in updates: its own `total`, or else that of the run."""
    if schedule.total is not None:
        return int(Horizon(1, steps_per_epoch).resolve("total", schedule.total))
    if steps is None and schedule.depends_on_length(Horizon(ENDLESS, steps_per_epoch)):
        raise UsageError(
            "the schedule depends on the length of the run: give steps, the number of updates, "
            f"such as epochs * len(loader), or total to the schedule{IN_A_MODULE}"
        )
    return ENDLESS if steps is None else steps


def _whole_number(name: str, value: Any, example: str) -> int | None:
    number = plain(value)
    if number is None or (type(number) is int and number > 0):
        return number
    raise UsageError(
        f"{name} must be a whole number > 0, such as {name}={example}, got {show(value)}"
    )
