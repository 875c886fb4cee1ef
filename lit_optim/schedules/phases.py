"""A schedule is a sequence of phases: from where, to where, in which shape, for how long.

Ends are decided here, once:

- `ticks: end` (default): the first update of a phase is already under way and its last one is at
  its end. A warmup of W steps gives 1/W, 2/W ... 1, and the last update of the run is at the floor.
- `ticks: start`: the first update of a phase is at its start (warmup 0, 1/W ...), and the floor is
  reached one step after the end. Most of transformers, torch and optax count this way.
- `ticks: both`: as `end`, but the first update of the run is at the start of its phase. torch's
  OneCycleLR counts this way.

Under all a jump acts on the first update after its boundary, and past the end the curve stays
where it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lit_optim.errors import UsageError, show
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Duration, Horizon, Share, parse
from lit_optim.schedules.phase_curve import PhasesCurve, fit
from lit_optim.schedules.phase_spec import Absolute, Free, Item, Repeat, floor_below, phases_of

Interval = Literal["step", "epoch"]


@dataclass(frozen=True)
class Phases(Schedule):
    """A sequence of phases.

    Args:
        phases: in order; one of them may take what the others leave of the run.
        interval: whether updates or epochs are counted; of epochs each keeps one value.
        others: phases of other hyperparameters that move along, such as `momentum`.
        whole: the phases must fit into the run; else its end cuts them, as in torch.

    Raises:
        ValueError: a length is not a duration.
    """

    phases: tuple[Item, ...]
    interval: Interval = "step"
    others: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    whole: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, duration in self._named():
            parse(name, duration)
        for item in self.phases:
            lengths = [(item.name, item.scale)] if isinstance(item, Free) else []
            if isinstance(item, Repeat) and item.count is None:
                lengths = [(p.name, p.length or 0) for p in item.phases]  # type: ignore[misc]
            for name, duration in lengths:
                if parse(name, duration)[0] == 0:
                    raise UsageError(f"{name} must be more than 0, got {show(duration)}")

    def _named(self) -> list[tuple[str, Duration]]:
        named: list[tuple[str, Duration | Share | None]] = []
        for item in self.phases:
            if isinstance(item, Free):
                named += [(item.name, item.scale), (item.length_name, item.length)]
            elif isinstance(item, Repeat):
                named.append((item.name, item.length))
            named += [
                (phase.name, phase.until if phase.length is None else phase.length)
                for phase in phases_of(item)
            ]
        return [(n, d) for n, d in named if d is not None and not isinstance(d, Share)]

    def check(self, lr: float) -> None:  # noqa: D102
        for item in self.phases:
            for phase in phases_of(item):
                for floor, peak in ((phase.end, phase.start), (phase.start, phase.end)):
                    if isinstance(floor, Absolute) and isinstance(peak, float | int):
                        floor_below(floor, peak * lr)

    def durations(self) -> list[Duration]:  # noqa: D102
        epoch: list[Duration] = ["1 epoch"] if self.interval == "epoch" else []
        return [duration for _, duration in self._named()] + epoch

    def fit(self, horizon: Horizon) -> PhasesCurve:
        """This schedule over a run of known length.

        Raises:
            ValueError: the phases are longer than the run, or epochs have no known length.
        """
        every = 1
        if self.interval == "epoch":
            if horizon.steps_per_epoch is None:
                raise UsageError("interval is epoch, but epochs have no known length here")
            every = horizon.steps_per_epoch
            horizon = Horizon(-(-horizon.steps // every), 1)
        curve, *others = (
            PhasesCurve(fit(phases, horizon, self.whole), horizon.steps, self.ticks, every)
            for phases in (self.phases, *self.others.values())
        )
        curve.others.update(zip(self.others, others, strict=True))
        return curve
