"""Curves: the value of a schedule at each update of a run whose length is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

from lit_optim.errors import UsageError
from lit_optim.schedules.durations import Duration, Horizon

#: The name of a logged metric; None: the metric that the run monitors.
MetricName = Annotated[str | None, "the name of a logged metric"]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class MonitoredMetric:
    """A metric that a schedule responds to.

    Args:
        monitor: its name; None: the metric that the run monitors.
        mode: whether lower ("min") or higher ("max") is better; None: as declared by the run or
            implied by the name.
        every: the updates between two readings; None: read after each validation.
    """

    monitor: str | None
    mode: Mode | None
    every: Duration | None = None


class CurveSource(Protocol):
    """What a curve was built from: a `Schedule`."""

    @property
    def total(self) -> Duration | None:
        """The schedule's own length, if it is not that of the run."""

    def curve(self, horizon: Horizon) -> Curve:
        """The curve over a run of this length."""

    def depends_on_length(self, horizon: Horizon) -> bool:
        """Whether a longer run would have other values."""


class Curve:
    """The value of each update of a run.

    A curve is a pure function of the update. A subclass with memory overrides `state_dict` and
    `load_state_dict`; one that responds to a metric also overrides `observe`.

    Args:
        total: the updates of the schedule; later updates keep the last value.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        #: curves of other hyperparameters set along with the lr, such as `momentum`; these are
        #: values, not factors
        self.hyperparameter_curves: dict[str, Curve] = {}
        #: the schedule and the run that this curve was built from, if any
        self.source: tuple[CurveSource, Horizon] | None = None
        #: the metric that it responds to, if any
        self.metric: MonitoredMetric | None = None
        #: updates between two readings of the metric; 0: read after each validation
        self.observe_every = 0

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The lr at update t = 0, 1, ... of a group whose base lr is `lr`."""
        raise NotImplementedError

    @property
    def depends_on_length(self) -> bool:
        """Whether a run of another length would have other values, so that it cannot resume."""
        return self.source is None or self.source[0].depends_on_length(self.source[1])

    def with_length(self, steps: int) -> Curve:
        """The same schedule over a run of another length.

        Raises:
            ValueError: it does not fit.
        """
        if self.source is None:
            raise UsageError(f"a curve of {self.total} steps was given, so it cannot have {steps}")
        schedule, horizon = self.source
        return schedule.curve(replace(horizon, steps=steps))

    def sample(self, t: int) -> float:
        """A number for comparing two curves at update t: the value, unless that is expensive."""
        return self(t)

    def milestones(self) -> list[int]:
        """The updates at which a part of the curve begins or ends, plus the first and the last."""
        return sorted({0, self.total - 1})

    def observe(self, metric: float) -> None:
        """Respond to a new value of the metric."""

    def set_mode(self, mode: Mode) -> None:
        """Set whether lower or higher values of the metric are better."""

    def state_dict(self) -> dict[str, Any]:
        """The memory of the curve, in plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory of the curve."""
