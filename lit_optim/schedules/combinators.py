"""Schedules made of other schedules: in sequence, or multiplied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from lit_optim.errors import UsageError, show, suggest
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import Duration, Horizon, parse_duration
from lit_optim.schedules.registry import (
    OLD_ARGUMENTS,
    argument_names,
    schedule,
    schedules_by_name,
)

#: A schedule, or in YAML its name and arguments: {name: cosine, min_lr_ratio: 0.1}.
Part = Schedule | Mapping[str, Any]


def build_part(index: int | str, part: Part, key: str) -> Schedule:
    """Build a schedule that is a part of something else.

    Args:
        index: its place in `key`, for messages.
        part: a schedule, or its name and arguments.
        key: the key that holds it, for messages.

    Raises:
        ValueError: it names no schedule, or one that cannot be a part.
    """
    if isinstance(part, Schedule):
        built: Any = part
    else:
        arguments = dict(part) if isinstance(part, Mapping) else {}
        name = arguments.pop("name", None)
        functions = {name: f for name, f in schedules_by_name().items() if name != "none"}
        if not isinstance(name, str) or name not in functions:
            near = suggest(name, functions) if isinstance(name, str) else ""
            raise UsageError(
                f"{key}.{index} must be a schedule such as {{name: cosine, warmup: 5%}}, "
                f"got {show(part)}{near}"
            )
        known = argument_names(functions[name])
        for given in arguments:
            if given not in known and OLD_ARGUMENTS.get(given) not in known:
                raise UsageError(
                    f"{key}.{index}: unknown key {given}{suggest(given, known)} ({name} takes "
                    f"{', '.join(known)})"
                )
        try:
            built = functions[name](**arguments)
        except UsageError as error:
            raise UsageError(f"{key}.{index}.{error}") from None
    if built.metric is not None:
        raise UsageError(
            f"{key}.{index} responds to a metric, which only the whole schedule of the lr may do"
        )
    return built  # type: ignore[no-any-return]


@dataclass(frozen=True, repr=False)
class Sequential(Schedule):
    """Schedules in sequence, each over its own part of the run."""

    parts: tuple[Schedule, ...]
    milestones: tuple[Duration, ...]
    key: str = "schedules"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.milestones) != len(self.parts) - 1:
            raise UsageError(
                f"milestones must be one fewer than the {len(self.parts)} schedules, "
                f"got {list(self.milestones)}"
            )
        for milestone in self.milestones:
            parse_duration("milestones", milestone)

    @override
    def check(self, lr: float) -> None:
        _check(self.key, self.parts, lr)

    @override
    def durations(self) -> list[Duration]:
        return [*self.milestones, *_durations(self.parts)]

    def build_curve(self, horizon: Horizon) -> Curve:
        """Fit this schedule to a run; a percentage within a part is of that part.

        Raises:
            ValueError: milestones do not increase, are past the end, or a part does not fit.
        """
        ends = [int(horizon.resolve("milestones", m)) for m in self.milestones]
        begins, ends = [0, *ends], [*ends, horizon.steps]
        curves, starts = [], []
        for index, (part, begin, end) in enumerate(zip(self.parts, begins, ends, strict=True)):
            if end < begin:
                raise UsageError(
                    f"milestones must increase, up to the {horizon.steps} steps of the run, "
                    f"got {list(self.milestones)}"
                )
            if end == begin:  # a percentage of a short run may round to 0
                continue
            starts.append(begin)
            curves.append(_fit_part(f"{self.key}.{index}", part, end - begin, horizon))
        sequence = SequentialCurve(curves, starts, horizon.steps)
        for name in dict.fromkeys(name for c in curves for name in c.hyperparameter_curves):
            inner = [c.hyperparameter_curves.get(name) or UnchangedCurve() for c in curves]
            sequence.hyperparameter_curves[name] = SequentialCurve(inner, starts, horizon.steps)
        return sequence


class UnchangedCurve(Curve):
    """NaN, for which the adapter leaves the hyperparameter unchanged."""

    def __init__(self) -> None:
        super().__init__(1)

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """NaN."""
        return math.nan


class SequentialCurve(Curve):
    """Curves in sequence."""

    def __init__(self, curves: Sequence[Curve], begins: Sequence[int], total: int) -> None:
        super().__init__(total)
        self.curves, self.begins = curves, begins

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The value of the curve that began last."""
        index = max(i for i, begin in enumerate(self.begins) if begin <= min(t, self.total - 1))
        return self.curves[index](t - self.begins[index], lr)

    def milestones(self) -> list[int]:
        """The milestones of each curve, and where it begins."""
        inner = [
            begin + mark
            for begin, end, curve in zip(
                self.begins, [*self.begins[1:], self.total], self.curves, strict=True
            )
            for mark in curve.milestones()
            if begin + mark < end
        ]
        return sorted({*super().milestones(), *self.begins, *inner})

    @override
    def state_dict(self) -> dict[str, Any]:
        return _state_dicts(self.curves)

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load_state_dicts(self.curves, state)


@dataclass(frozen=True, repr=False)
class Chained(Schedule):
    """The product of schedules."""

    parts: tuple[Schedule, ...]
    key: str = "schedules"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise UsageError(f"{self.key} must have at least one schedule")

    @override
    def check(self, lr: float) -> None:
        _check(self.key, self.parts, lr)

    @override
    def durations(self) -> list[Duration]:
        return _durations(self.parts)

    def build_curve(self, horizon: Horizon) -> Curve:
        """Fit this schedule to a run of known length.

        Raises:
            ValueError: a part does not fit.
        """
        curves = [
            _fit_part(f"{self.key}.{index}", part, horizon.steps, horizon)
            for index, part in enumerate(self.parts)
        ]
        product = ChainedCurve(curves, horizon.steps)
        setting = [curve for curve in curves if curve.hyperparameter_curves]
        if len(setting) > 1:
            raise UsageError(f"{self.key}: only one of them can set momentum")
        product.hyperparameter_curves = setting[0].hyperparameter_curves if setting else {}
        return product


class ChainedCurve(Curve):
    """The product of the factors of all curves."""

    def __init__(self, curves: Sequence[Curve], total: int) -> None:
        super().__init__(total)
        self.curves = curves

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The product; absolute levels of a part count as factors of the lr."""
        if lr == 0:
            return 0.0
        t = min(t, self.total)
        return lr * math.prod(curve(t, lr) / lr for curve in self.curves)

    def milestones(self) -> list[int]:
        """The milestones of each curve."""
        inner = {mark for curve in self.curves for mark in curve.milestones()}
        return sorted({*super().milestones(), *(mark for mark in inner if mark < self.total)})

    @override
    def state_dict(self) -> dict[str, Any]:
        return _state_dicts(self.curves)

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load_state_dicts(self.curves, state)


def build_parts(key: str, schedules: Sequence[Part]) -> tuple[Schedule, ...]:
    """Build every schedule of a list; see `build_part`."""
    return tuple(build_part(index, part, key) for index, part in enumerate(schedules))


def _check(key: str, parts: Sequence[Schedule], lr: float) -> None:
    for index, part in enumerate(parts):
        try:
            part.check(lr)
        except UsageError as error:
            raise UsageError(f"{key}.{index}.{error}") from None


def _durations(parts: Sequence[Schedule]) -> list[Duration]:
    totals = [part.total for part in parts if part.total is not None]
    return [duration for part in parts for duration in part.durations()] + totals


def _fit_part(path: str, part: Schedule, steps: int, horizon: Horizon) -> Curve:
    """The curve of a part over `steps`, unless the part has a length of its own."""
    if part.total is not None:
        steps = int(horizon.resolve("total", part.total))
    try:
        return part.curve(Horizon(steps, horizon.steps_per_epoch, horizon.samples_per_step))
    except UsageError as error:
        raise UsageError(f"{path}.{error}") from None


def _state_dicts(curves: Sequence[Curve]) -> dict[str, Any]:
    states = {str(index): curve.state_dict() for index, curve in enumerate(curves)}
    return {index: state for index, state in states.items() if state}


def _load_state_dicts(curves: Sequence[Curve], state: dict[str, Any]) -> None:
    for index, saved in state.items():
        curves[int(index)].load_state_dict(saved)


#: The defaults of `sequential` and `chained`.
SEQUENCE: Sequence[Part] = ({"name": "constant_warmup", "warmup": "10%"}, {"name": "cosine"})
CHAIN: Sequence[Part] = ({"name": "constant_warmup"}, {"name": "step"})


@schedule
def sequential(
    schedules: Sequence[Part] = SEQUENCE,
    milestones: Sequence[Duration] = ("50%",),
    total: Duration | None = None,
) -> Sequential:
    """Schedules in sequence, each starting at its milestone.

    torch's SequentialLR. Percentages within a part are of that part.
    """
    return Sequential(build_parts("schedules", schedules), tuple(milestones), total=total)


@schedule
def chained(schedules: Sequence[Part] = CHAIN, total: Duration | None = None) -> Chained:
    """The product of several schedules.

    torch's ChainedScheduler.
    """
    return Chained(build_parts("schedules", schedules), total=total)
