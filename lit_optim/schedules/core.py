"""Schedules: they are written before the length of a run is known, then fitted to a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from lit_optim.errors import UsageError, show
from lit_optim.schedules.curve import Curve, MonitoredMetric
from lit_optim.schedules.durations import Duration, Horizon, HorizonPolicy, parse_duration

StepAlignment = Literal["end", "start", "both"]
STEP_ALIGNMENTS = ("end", "start", "both")
#: The number of updates, evenly spaced over a run, at which curves of two lengths are compared.
COMPARED_UPDATES = 200
#: The attribute with the call that has made a schedule; what is made otherwise has none.
CALL = "_call"
#: Fields that had other names in earlier versions, for schedules that were pickled then.
OLD_FIELDS = {
    "ticks": "step_alignment",
    "follows": "metric",
    "others": "hyperparameters",
    "whole": "must_fit",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Schedule:
    """A schedule that is not yet fitted to a run; `curve` does that.

    Args:
        total: the length of the schedule, if it is not the length of the run.
        step_alignment: where an update lies within its step; see `phases`.
        metric: the metric that the schedule responds to, if any.

    Raises:
        ValueError: `total` is not a duration, or `step_alignment` is not one of the three.
    """

    total: Duration | None = None
    step_alignment: StepAlignment = "end"
    metric: MonitoredMetric | None = None

    def __call__(
        self,
        optimizer: Any,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: HorizonPolicy = "error",
        last_epoch: int = -1,
    ) -> Any:
        """Return the torch scheduler of an optimizer: `lit_optim.schedule(optimizer, self, ...)`.

        For code that expects a scheduler class. In a module whose `configure_optimizers` the
        command line calls, the length is that of the run.

        Raises:
            UsageError: as `lit_optim.schedule`.
        """
        from lit_optim.schedules.attach import attach  # torch takes seconds to import

        return attach(self, optimizer, steps, steps_per_epoch, horizon, last_epoch)

    def __post_init__(self) -> None:
        if self.step_alignment not in STEP_ALIGNMENTS:
            raise UsageError(
                f"step_alignment must be one of {', '.join(STEP_ALIGNMENTS)}, "
                f"got {show(self.step_alignment)}"
            )
        if self.total is not None:
            amount, unit = parse_duration("total", self.total)
            if unit == "%" or amount <= 0:
                raise UsageError(
                    f"total must be steps, epochs or samples > 0, got {show(self.total)}"
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({OLD_FIELDS.get(name, name): value for name, value in state.items()})

    def with_metric(self, metric: MonitoredMetric) -> Schedule:
        """The same schedule, responding to this metric."""
        changed = replace(self, metric=metric)
        if CALL in vars(self):
            changed.note_call(*vars(self)[CALL])
        return changed

    def note_call(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Note what `repr` shows: the function that has made it, and the arguments it was given."""
        vars(self)[CALL] = name, dict(arguments)

    def __repr__(self) -> str:
        """The call that makes it, such as `cosine_warmup(warmup='5%')`."""
        of_class = type(self).__name__, {one.name: getattr(self, one.name) for one in fields(self)}
        name, arguments = vars(self).get(CALL, of_class)
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"

    def durations(self) -> list[Duration]:
        """The durations that it is written in, except `total`."""
        return []

    @property
    def units(self) -> set[str]:
        """The units that the horizon must know: "step", "%", "epoch", "sample"."""
        total = [] if self.total is None else [self.total]
        return {parse_duration("length", duration)[1] for duration in (*total, *self.durations())}

    def check(self, lr: float) -> None:
        """Check that no floor is above `lr`, the largest lr of the optimizer.

        Raises:
            ValueError: a floor is above it, so that the lr would rise.
        """

    def curve(self, horizon: Horizon) -> Curve:
        """Fit this schedule to a run of known length.

        Raises:
            ValueError: it does not fit.
        """
        curve = self.build_curve(horizon)
        curve.source = self, horizon
        return curve

    def build_curve(self, horizon: Horizon) -> Curve:
        """Build what `curve` returns; each subclass implements this."""
        raise NotImplementedError

    def depends_on_length(self, horizon: Horizon) -> bool:
        """Whether the values within this run would change if the run were longer."""
        try:
            curve = self.build_curve(horizon)
            longer = self.build_curve(replace(horizon, steps=2 * horizon.steps))
        except UsageError:
            return True
        steps = horizon.steps
        evenly = {round(k * (steps - 1) / (COMPARED_UPDATES - 1)) for k in range(COMPARED_UPDATES)}
        marks = evenly | {t for t in (*curve.milestones(), *longer.milestones()) if t < steps}
        pairs = [(curve, longer)]
        pairs += [
            (inner, longer.hyperparameter_curves[name])
            for name, inner in curve.hyperparameter_curves.items()
        ]
        return any(
            not math.isclose(first.sample(t), second.sample(t), rel_tol=1e-12)
            for first, second in pairs
            for t in sorted(marks)
        )
