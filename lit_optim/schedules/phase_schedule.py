"""A schedule that is a list of phases: from which level, to which level, in which shape, how long.

`step_alignment` says where an update lies within its step:

- `end` (default): at the end. The first update of a phase has already moved, and its last update
  is at its end. A warmup of W steps is 1/W, 2/W ... 1, and the last update of the run is at the
  floor.
- `start`: at the start. A warmup is 0, 1/W ..., and the floor is reached one step after the end.
  Most schedules of transformers, torch and optax do this.
- `both`: like `end`, but the first update of the run is at the start of its phase. torch's
  OneCycleLR does this.

With all three, a jump affects the first update after its boundary, and after the end of the
schedule the value stays constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from typing_extensions import override

from lit_optim.errors import UsageError, show
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Duration, Horizon, RunFraction, parse_duration
from lit_optim.schedules.phase_curve import PhasesCurve, place_segments
from lit_optim.schedules.phase_spec import (
    AbsoluteLevel,
    FormulaSegment,
    Repeat,
    Segment,
    check_floor,
    inner_phases,
)

Interval = Literal["step", "epoch"]


@dataclass(frozen=True, repr=False)
class Phases(Schedule):
    """A list of phases.

    Args:
        phases: in order; one of them may have no length and takes what the others leave.
        interval: whether updates or epochs are counted; within an epoch the value is constant.
        hyperparameters: phases of other hyperparameters set along with the lr, such as `momentum`.
        must_fit: whether phases longer than the run are an error; otherwise the end of the run
            cuts them off, as in torch.

    Raises:
        ValueError: a length is not a duration.
    """

    phases: tuple[Segment, ...]
    interval: Interval = "step"
    hyperparameters: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    must_fit: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, duration in self._named_durations():
            parse_duration(name, duration)
        for segment in self.phases:
            lengths = []
            if isinstance(segment, FormulaSegment):
                lengths = [(segment.name, segment.scale)]
            elif isinstance(segment, Repeat) and segment.count is None:
                lengths = [(p.name, p.length or 0) for p in segment.phases]  # type: ignore[misc]
            for name, duration in lengths:
                if parse_duration(name, duration)[0] == 0:
                    raise UsageError(f"{name} must be more than 0, got {show(duration)}")

    def _named_durations(self) -> list[tuple[str, Duration]]:
        named: list[tuple[str, Duration | RunFraction | None]] = []
        for segment in self.phases:
            if isinstance(segment, FormulaSegment):
                named += [
                    (segment.name, segment.scale),
                    (segment.length_name, segment.length),
                ]
            elif isinstance(segment, Repeat):
                named.append((segment.name, segment.length))
            named += [
                (phase.name, phase.until if phase.length is None else phase.length)
                for phase in inner_phases(segment)
            ]
        return [(n, d) for n, d in named if d is not None and not isinstance(d, RunFraction)]

    @override
    def check(self, lr: float) -> None:
        for segment in self.phases:
            for phase in inner_phases(segment):
                for floor, peak in ((phase.end, phase.start), (phase.start, phase.end)):
                    if isinstance(floor, AbsoluteLevel) and isinstance(peak, float | int):
                        check_floor(floor, peak * lr)

    @override
    def durations(self) -> list[Duration]:
        epoch: list[Duration] = ["1 epoch"] if self.interval == "epoch" else []
        return [duration for _, duration in self._named_durations()] + epoch

    def build_curve(self, horizon: Horizon) -> PhasesCurve:
        """Fit this schedule to a run of known length.

        Raises:
            ValueError: the phases are longer than the run, or the length of an epoch is not known.
        """
        every = 1
        if self.interval == "epoch":
            if horizon.steps_per_epoch is None:
                raise UsageError("interval is epoch, but epochs have no known length here")
            every = horizon.steps_per_epoch
            horizon = Horizon(-(-horizon.steps // every), 1)
        curve, *others = (
            PhasesCurve(
                place_segments(phases, horizon, self.must_fit),
                horizon.steps,
                self.step_alignment,
                every,
            )
            for phases in (self.phases, *self.hyperparameters.values())
        )
        curve.hyperparameter_curves.update(zip(self.hyperparameters, others, strict=True))
        return curve
