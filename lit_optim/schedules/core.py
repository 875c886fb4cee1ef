"""What a schedule is: something that fits itself to a run and then gives a value per update."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from lit_optim.errors import UsageError, show
from lit_optim.schedules.durations import Duration, Horizon, parse

#: Makes the torch scheduler of a schedule and an optimizer, where the run is known.
SERVED: ContextVar[Callable[[Schedule, Any], Any] | None] = ContextVar("SERVED", default=None)

Ticks = Literal["end", "start", "both"]
TICKS = ("end", "start", "both")
#: So many updates, evenly over a run, tell whether a curve depends on its length.
LOOKS = 200

#: The metric that a schedule follows and whether it is best when low or high; None: the run's.
Monitor = Annotated[str | None, "the name of a logged metric"]
Mode = Literal["min", "max"]


class Curve:
    """The value of each update of a run.

    Closed form where a subclass says nothing else; one that remembers something overrides
    `state_dict`, `load_state_dict` and, if it follows a metric, `observe`.

    Args:
        total: the updates of the schedule; past them the value stays.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        #: curves of other hyperparameters that move along, such as `momentum`; values, not factors
        self.others: dict[str, Curve] = {}
        #: the schedule and the run that it was made of, where it was made by one
        self.made_of: tuple[Schedule, Horizon] | None = None
        #: what it follows: a `Follow`, or None
        self.follows: Follow | None = None
        #: how many updates lie between two observations of that; 0: a validation
        self.observed_every = 0

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The lr at the update with index t = 0, 1, ... of a group whose own lr is `lr`."""
        raise NotImplementedError

    @property
    def bounded(self) -> bool:
        """Whether its values depend on the length, so that a run cannot go on with another one."""
        return self.made_of is None or self.made_of[0].depends_on_length(self.made_of[1])

    def with_length(self, steps: int) -> Curve:
        """The curve of the same schedule over a run of another length.

        Raises:
            ValueError: it does not fit.
        """
        if self.made_of is None:
            raise UsageError(f"a curve of {self.total} steps was given, so it cannot have {steps}")
        schedule, horizon = self.made_of
        return schedule.curve(replace(horizon, steps=steps))

    def sample(self, t: int) -> float:
        """A number to compare with that of another curve: its value, if that is cheap."""
        return self(t)

    def milestones(self) -> list[int]:
        """The updates at which something begins or ends, the first and the last among them."""
        return sorted({0, self.total - 1})

    def observe(self, metric: float) -> None:
        """Take note of a new value of the metric that is followed."""

    def set_direction(self, mode: Mode) -> None:
        """Take note of whether the metric that is followed is best when low or high."""

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, in plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was remembered."""


@dataclass(frozen=True)
class Follow:
    """A metric to follow.

    Args:
        monitor: its name; None: the run's.
        mode: is it best when min or max; None: as the run or its name says.
        every: how many updates lie between two observations; None: a validation.
    """

    monitor: str | None
    mode: Mode | None
    every: Duration | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What was asked for, before the length of the run is known; `curve` fits it to a run.

    Args:
        total: the length of the schedule if it is not the length of the run.
        ticks: how updates are counted; see `phases`.
        follows: the metric it follows, for one that does.

    Raises:
        ValueError: `total` is not a duration, or `ticks` is not one of the three.
    """

    total: Duration | None = None
    ticks: Ticks = "end"
    follows: Follow | None = None

    def __call__(self, optimizer: Any) -> Any:
        """The torch scheduler of an optimizer, for code that is given a torch scheduler's class.

        Its length is `total` in steps, or that of the run in a module whose configure_optimizers
        the command line serves.

        Raises:
            ValueError: the length is not known.
        """
        if (serve := SERVED.get()) is not None:
            return serve(self, optimizer)
        if self.total is None or self.units - {"step", "%"} or self.follows is not None:
            raise UsageError(
                "scheduler(optimizer=...) does not know the run: give its length in steps as the "
                "schedule's total, or return lit_optim.configure_optimizers(self, optimizer, "
                "scheduler)"
            )
        from lit_optim.schedules.adapter import ScheduledLR  # torch, which takes seconds

        steps = int(Horizon(1).resolve("total", self.total))
        return ScheduledLR(optimizer, self.curve(Horizon(steps)))

    def __post_init__(self) -> None:
        if self.ticks not in TICKS:
            raise UsageError(f"ticks must be one of {', '.join(TICKS)}, got {show(self.ticks)}")
        if self.total is not None:
            amount, unit = parse("total", self.total)
            if unit == "%" or amount <= 0:
                raise UsageError(
                    f"total must be steps, epochs or samples > 0, got {show(self.total)}"
                )

    def following(self, follow: Follow) -> Schedule:
        """The same schedule, following this."""
        return replace(self, follows=follow)

    def durations(self) -> list[Duration]:
        """The durations it is written in, beside `total`."""
        return []

    @property
    def units(self) -> set[str]:
        """The units that the horizon must know: "step", "%", "epoch", "sample"."""
        total = [] if self.total is None else [self.total]
        return {parse("length", duration)[1] for duration in (*total, *self.durations())}

    def check(self, lr: float) -> None:
        """Hold its floors against the largest lr of the optimizer.

        Raises:
            ValueError: one of them is above it, so that the lr would rise.
        """

    def curve(self, horizon: Horizon) -> Curve:
        """This schedule over a run of known length.

        Raises:
            ValueError: it does not fit.
        """
        curve = self.fit(horizon)
        curve.made_of = self, horizon
        return curve

    def fit(self, horizon: Horizon) -> Curve:
        """What `curve` gives; written by a subclass."""
        raise NotImplementedError

    def depends_on_length(self, horizon: Horizon) -> bool:
        """Whether the values in a run would be others if the run were longer."""
        try:
            here, longer = self.fit(horizon), self.fit(replace(horizon, steps=2 * horizon.steps))
        except UsageError:
            return True
        steps = horizon.steps
        evenly = {round(k * (steps - 1) / (LOOKS - 1)) for k in range(LOOKS)}
        marks = evenly | {t for t in (*here.milestones(), *longer.milestones()) if t < steps}
        curves = [(here, longer)]
        curves += [(curve, longer.others[name]) for name, curve in here.others.items()]
        return any(
            not math.isclose(one.sample(t), other.sample(t), rel_tol=1e-12)
            for one, other in curves
            for t in sorted(marks)
        )
