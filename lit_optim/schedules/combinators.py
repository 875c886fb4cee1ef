"""Schedules made of schedules: one after the other, or multiplied."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lit_optim.errors import UsageError, show, suggest
from lit_optim.schedules.core import Curve, Schedule
from lit_optim.schedules.durations import Duration, Horizon, parse
from lit_optim.schedules.library import checked

ROOMS = (
    "schedules.library",
    "schedules.decays",
    "schedules.phase_parser",
    "schedules.formulas",
    "schedules.metric_schedules",
    "compat.torch_schedules",
    "compat.transformers_schedules",
)
ALL_ROOMS = (*ROOMS, "schedules.combinators")

#: A schedule, or in YAML its name and arguments: {name: cosine, min_lr_ratio: 0.1}.
Part = Schedule | Mapping[str, Any]


def made(index: int | str, part: Part, key: str) -> Schedule:
    """A part as a schedule.

    Raises:
        ValueError: it names none, or one that cannot be a part.
    """
    if isinstance(part, Schedule):
        schedule: Any = part
    else:
        arguments = dict(part) if isinstance(part, Mapping) else {}
        name = arguments.pop("name", None)
        function = _find(name)
        if function is None:
            near = suggest(name, _names()) if isinstance(name, str) else ""
            raise UsageError(
                f"{key}.{index} must be a schedule such as {{name: cosine, warmup: 5%}}, "
                f"got {show(part)}{near}"
            )
        known = inspect.signature(function).parameters
        for given in arguments:
            if given not in known and given not in ("total", "ticks"):
                raise UsageError(f"{key}.{index}: unknown key {given}{suggest(given, known)}")
        try:
            schedule = function(**arguments)
        except UsageError as error:
            raise UsageError(f"{key}.{index}.{error}") from None
        except TypeError:  # it does not take total or ticks
            raise UsageError(f"{key}.{index}: {name} takes {', '.join(known)}") from None
    if schedule.follows is not None:
        raise UsageError(f"{key}.{index} follows a metric, so it cannot be a part of another")
    return schedule  # type: ignore[no-any-return]


def find_schedule(name: str) -> Schedule | None:
    """The schedule of a name as on the command line, with its defaults; None for `none`.

    Raises:
        UsageError: there is none, with the nearest name.
    """
    if name == "none":
        return None
    functions = _names(ALL_ROOMS)
    plain = {key.replace("_", "").lower(): key for key in functions}
    name = name if name in functions else plain.get(name.replace("_", "").lower(), name)
    if name not in functions:
        near = suggest(name, functions) or "; lit-optim schedules lists them"
        raise UsageError(f"unknown schedule {name!r}{near}")
    schedule: Schedule = functions[name]()
    return schedule


def _names(rooms: Sequence[str] = ROOMS) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for room in rooms:
        module = import_module(f"lit_optim.{room}")
        for name, value in vars(module).items():
            if hasattr(value, "__wrapped__") and value.__module__ == module.__name__:
                found[name.rstrip("_")] = value  # lambda is a word of Python's
    return found


def _find(name: Any) -> Any:
    return _names(ALL_ROOMS).get(name) if isinstance(name, str) else None


@dataclass(frozen=True)
class Sequential(Schedule):
    """Schedules one after the other, each over its own part of the run."""

    parts: tuple[Schedule, ...]
    milestones: tuple[Duration, ...]
    key: str = "schedules"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.milestones) != len(self.parts) - 1:
            raise UsageError(
                f"milestones must be one less than the {len(self.parts)} schedules, "
                f"got {list(self.milestones)}"
            )
        for milestone in self.milestones:
            parse("milestones", milestone)

    def check(self, lr: float) -> None:  # noqa: D102
        _check(self.key, self.parts, lr)

    def durations(self) -> list[Duration]:  # noqa: D102
        return [*self.milestones, *_durations(self.parts)]

    def fit(self, horizon: Horizon) -> Curve:
        """This schedule over a run of known length; a share in a part is of that part.

        Raises:
            ValueError: milestones do not rise or pass the end, or a part does not fit.
        """
        ends = [int(horizon.resolve("milestones", m)) for m in self.milestones]
        begins, ends = [0, *ends], [*ends, horizon.steps]
        curves, kept = [], []
        for index, (part, begin, end) in enumerate(zip(self.parts, begins, ends, strict=True)):
            if end < begin:
                raise UsageError(
                    f"milestones must rise, up to the {horizon.steps} steps of the run, "
                    f"got {list(self.milestones)}"
                )
            if end == begin:  # a share of a short run may round to nothing
                continue
            kept.append(begin)
            curves.append(_fitted(f"{self.key}.{index}", part, end - begin, horizon))
        made = SequentialCurve(curves, kept, horizon.steps)
        for name in dict.fromkeys(name for curve in curves for name in curve.others):
            others = [curve.others.get(name) or Kept() for curve in curves]
            made.others[name] = SequentialCurve(others, kept, horizon.steps)
        return made


class Kept(Curve):
    """Nothing is moved: NaN, which the adapter leaves out."""

    def __init__(self) -> None:
        super().__init__(1)

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """NaN."""
        return math.nan


class SequentialCurve(Curve):
    """Each curve from where it begins."""

    def __init__(self, curves: Sequence[Curve], begins: Sequence[int], total: int) -> None:
        super().__init__(total)
        self.curves, self.begins = curves, begins

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The value of the curve that has begun last."""
        index = max(i for i, begin in enumerate(self.begins) if begin <= min(t, self.total - 1))
        return self.curves[index](t - self.begins[index], lr)

    def milestones(self) -> list[int]:
        """Those of each curve, and where it begins."""
        inner = [
            begin + mark
            for begin, end, curve in zip(
                self.begins, [*self.begins[1:], self.total], self.curves, strict=True
            )
            for mark in curve.milestones()
            if begin + mark < end
        ]
        return sorted({*super().milestones(), *self.begins, *inner})

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return _states(self.curves)

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        _load(self.curves, state)


@dataclass(frozen=True)
class Chained(Schedule):
    """Schedules multiplied."""

    parts: tuple[Schedule, ...]
    key: str = "schedules"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise UsageError(f"{self.key} must be at least one")

    def check(self, lr: float) -> None:  # noqa: D102
        _check(self.key, self.parts, lr)

    def durations(self) -> list[Duration]:  # noqa: D102
        return _durations(self.parts)

    def fit(self, horizon: Horizon) -> Curve:
        """This schedule over a run of known length.

        Raises:
            ValueError: a part does not fit.
        """
        curves = [
            _fitted(f"{self.key}.{index}", part, horizon.steps, horizon)
            for index, part in enumerate(self.parts)
        ]
        made, moving = ChainedCurve(curves, horizon.steps), [c for c in curves if c.others]
        if len(moving) > 1:
            raise UsageError(f"{self.key}: only one of them can move momentum")
        made.others = moving[0].others if moving else {}
        return made


class ChainedCurve(Curve):
    """The product of the factors of all."""

    def __init__(self, curves: Sequence[Curve], total: int) -> None:
        super().__init__(total)
        self.curves = curves

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """Absolute levels of a part become factors of the lr first."""
        if lr == 0:
            return 0.0
        t = min(t, self.total)
        return lr * math.prod(curve(t, lr) / lr for curve in self.curves)

    def milestones(self) -> list[int]:
        """Those of each of them."""
        inner = {mark for curve in self.curves for mark in curve.milestones()}
        return sorted({*super().milestones(), *(mark for mark in inner if mark < self.total)})

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return _states(self.curves)

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        _load(self.curves, state)


def _parts(key: str, schedules: Sequence[Part]) -> tuple[Schedule, ...]:
    return tuple(made(index, part, key) for index, part in enumerate(schedules))


def _check(key: str, parts: Sequence[Schedule], lr: float) -> None:
    for index, part in enumerate(parts):
        try:
            part.check(lr)
        except UsageError as error:
            raise UsageError(f"{key}.{index}.{error}") from None


def _durations(parts: Sequence[Schedule]) -> list[Duration]:
    totals = [part.total for part in parts if part.total is not None]
    return [duration for part in parts for duration in part.durations()] + totals


def _fitted(path: str, part: Schedule, steps: int, horizon: Horizon) -> Curve:
    """The curve of a part that gets so many steps, unless it has a length of its own."""
    if part.total is not None:
        steps = int(horizon.resolve("total", part.total))
    try:
        return part.curve(Horizon(steps, horizon.steps_per_epoch, horizon.samples_per_step))
    except UsageError as error:
        raise UsageError(f"{path}.{error}") from None


def _states(curves: Sequence[Curve]) -> dict[str, Any]:
    states = {str(index): curve.state_dict() for index, curve in enumerate(curves)}
    return {index: state for index, state in states.items() if state}


def _load(curves: Sequence[Curve], state: dict[str, Any]) -> None:
    for index, saved in state.items():
        curves[int(index)].load_state_dict(saved)


#: What `sequential` and `chained` do without being told.
SEQUENCE: Sequence[Part] = ({"name": "constant_warmup", "warmup": "10%"}, {"name": "cosine"})
CHAIN: Sequence[Part] = ({"name": "constant_warmup"}, {"name": "step"})


@checked
def sequential(
    schedules: Sequence[Part] = SEQUENCE,
    milestones: Sequence[Duration] = ("50%",),
    total: Duration | None = None,
) -> Sequential:
    """One schedule after the other; each counts from its milestone, and its shares are of its part.

    torch's SequentialLR.
    """
    return Sequential(_parts("schedules", schedules), tuple(milestones), total=total)


@checked
def chained(schedules: Sequence[Part] = CHAIN, total: Duration | None = None) -> Chained:
    """The product of schedules.

    torch's ChainedScheduler.
    """
    return Chained(_parts("schedules", schedules), total=total)


@checked
def SequentialLR(
    schedulers: Sequence[Part] = SEQUENCE, milestones: Sequence[Duration] = ("50%",)
) -> Sequential:
    """One schedule after the other, each counting from its milestone.

    torch's SequentialLR.
    """
    return Sequential(_parts("schedulers", schedulers), tuple(milestones), "schedulers")


@checked
def ChainedScheduler(schedulers: Sequence[Part] = CHAIN) -> Chained:
    """The product of schedules.

    torch's ChainedScheduler, whose recursions are no product where a part has an absolute floor.
    """
    return Chained(_parts("schedulers", schedulers), "schedulers")
