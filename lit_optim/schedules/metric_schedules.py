"""Schedules that respond to a metric: the lr drops on a plateau, or rises while it improves.

The metric is read after every validation, or after a number of updates, such as a training loss.
The memory of these schedules is saved in checkpoints.

Raises (all of them): ValueError naming the argument, the value given and what is allowed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from typing_extensions import Unpack, override

from lit_optim.errors import UsageError, show
from lit_optim.schedules.arguments import (
    CommonArguments,
    Fraction,
    NonNegative,
    floor_level,
    warmup_phase,
)
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import Curve, MetricName, Mode, MonitoredMetric
from lit_optim.schedules.durations import Duration, Horizon, parse_duration
from lit_optim.schedules.phase_schedule import Phases
from lit_optim.schedules.phase_spec import AbsoluteLevel, Level, Phase, check_floor, level_value
from lit_optim.schedules.registry import schedule

Factor = Annotated[float, "in (0, 1)"]
Count = Annotated[int, ">= 0"]
ThresholdMode = Literal["rel", "abs"]


class BestValue:
    """The best value so far, and the number of values in a row that did or did not improve on it.

    Args:
        mode: whether lower ("min") or higher ("max") is better.
        threshold: the least improvement that counts.
        threshold_mode: whether that is a fraction of the best value ("rel") or an amount ("abs").
    """

    def __init__(self, mode: Mode, threshold: float, threshold_mode: ThresholdMode) -> None:
        self.sign = 1 if mode == "min" else -1
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.reset()

    def reset(self) -> None:
        """Forget every value."""
        self.best = self.sign * math.inf
        self.bad = self.good = 0

    def set_mode(self, mode: Mode) -> None:
        """Set whether lower or higher is better; keep a best value that is already known."""
        self.sign = 1 if mode == "min" else -1
        if math.isinf(self.best):
            self.best = self.sign * math.inf

    def update(self, value: float) -> None:
        """Compare a new value with the best; NaN never improves on it."""
        if self.threshold_mode == "rel":
            bound = self.best * (1 - self.sign * self.threshold)
        else:
            bound = self.best - self.sign * self.threshold
        if self.sign * value < self.sign * bound:
            self.best, self.bad, self.good = value, 0, self.good + 1
        else:
            self.bad, self.good = self.bad + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {"best": self.best, "bad": self.bad, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.best, self.bad, self.good = state["best"], state["bad"], state["good"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Plateau(Schedule):
    """The arguments of `plateau`."""

    warmup: Duration
    factor: float
    patience: int
    threshold: float
    threshold_mode: ThresholdMode
    cooldown: int
    floor: Level
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.durations()  # reading them checks them

    def _warmup(self) -> Phases:
        return Phases(
            (warmup_phase(self.warmup), Phase(1.0, 1.0)),
            total=self.total,
            step_alignment=self.step_alignment,
        )

    @override
    def check(self, lr: float) -> None:
        check_floor(self.floor, lr)

    @override
    def durations(self) -> list[Duration]:
        return [*self._warmup().durations(), *_observation_interval(self.metric)]

    @override
    def build_curve(self, horizon: Horizon) -> Curve:
        return PlateauCurve(self, self._warmup().curve(horizon), horizon)


def _observation_interval(metric: MonitoredMetric | None) -> list[Duration]:
    """The updates between two readings, unless the metric is read after each validation.

    Raises:
        ValueError: it is not a duration, or it is 0.
    """
    if metric is None or metric.every is None:
        return []
    if parse_duration("every", metric.every)[0] == 0:
        raise UsageError(f"every must be more than 0, got {show(metric.every)}")
    return [metric.every]


class MetricCurve(Curve):
    """Remembers the current lr for each base lr."""

    def __init__(self, settings: Plateau | Greedy, horizon: Horizon) -> None:
        super().__init__(horizon.steps)
        for every in _observation_interval(settings.metric):
            self.observe_every = max(1, int(horizon.resolve("every", every)))
        self.metric = metric = settings.metric
        mode = (metric and metric.mode) or "min"
        self.best = BestValue(mode, settings.threshold, settings.threshold_mode)
        self.lrs: dict[float, float] = {}
        self.wait = 0

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The current lr."""
        return self.lrs.setdefault(lr, lr)

    @override
    def set_mode(self, mode: Mode) -> None:
        self.best.set_mode(mode)

    def lower(self, factor: float, floor: Level, eps: float) -> None:
        """Multiply every lr by `factor`, down to the floor; skip changes of at most `eps`."""
        for lr, now in self.lrs.items():
            new = max(now * factor, level_value(floor, lr))
            self.lrs[lr] = new if now - new > eps else now

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.best.state_dict() | {"lrs": dict(self.lrs), "wait": self.wait}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.load_state_dict(state)
        self.lrs, self.wait = dict(state["lrs"]), state["wait"]


class PlateauCurve(MetricCurve):
    """Lowers the lr after more than `patience` readings without a new best."""

    def __init__(self, settings: Plateau, warmup: Curve, horizon: Horizon) -> None:
        super().__init__(settings, horizon)
        self.settings, self.warmup = settings, warmup

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """The current lr times the warmup."""
        return super().__call__(t, lr) * self.warmup(t)

    def milestones(self) -> list[int]:
        """The milestones of the warmup."""
        return self.warmup.milestones()

    def observe(self, metric: float) -> None:
        """Respond to one reading."""
        settings = self.settings
        self.best.update(metric)
        if self.wait > 0:
            self.wait -= 1
            self.best.bad = 0
        if self.best.bad > settings.patience:
            self.lower(settings.factor, settings.floor, settings.eps)
            self.wait, self.best.bad = settings.cooldown, 0


@dataclass(frozen=True, kw_only=True, repr=False)
class Greedy(Schedule):
    """The arguments of `greedy`."""

    factor: float
    patience: int
    threshold: float
    threshold_mode: ThresholdMode
    cooldown: int
    warmup: int
    floor: Level
    ceiling: Level
    eps: float
    smooth: bool
    window_size: int
    reset_start: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.durations()  # reading them checks them

    @override
    def check(self, lr: float) -> None:
        check_floor(self.floor, lr)
        if level_value(self.ceiling, lr) < lr:
            raise UsageError(
                f"max_lr={level_value(self.ceiling, lr):g} is below the optimizer's lr, {lr:g}"
            )

    @override
    def durations(self) -> list[Duration]:
        return _observation_interval(self.metric)

    @override
    def build_curve(self, horizon: Horizon) -> Curve:
        return GreedyCurve(self, horizon)


class GreedyCurve(MetricCurve):
    """Raises the lr after a streak of new bests, lowers it after a streak without one."""

    def __init__(self, settings: Greedy, horizon: Horizon) -> None:
        super().__init__(settings, horizon)
        self.settings = settings
        self.window: deque[float] = deque(maxlen=settings.window_size)
        self.left = settings.reset_start

    def observe(self, metric: float) -> None:
        """Respond to one reading."""
        settings = self.settings
        if settings.smooth:
            self.window.append(metric)
            metric = sum(self.window) / len(self.window)
        if self.wait > 0:
            self.wait -= 1
            self.best.bad = self.best.good = 0
            return
        self.best.update(metric)
        if self.best.good > settings.patience:
            self._raise()
            self.wait, self.best.good = settings.warmup, 0
        elif self.best.bad > settings.patience:
            self.lower(settings.factor, settings.floor, settings.eps)
            if all(now <= level_value(settings.floor, lr) for lr, now in self.lrs.items()):
                self.left -= 1
                if self.left <= 0:
                    self._reset()
            self.wait, self.best.bad = settings.cooldown, 0

    def _raise(self) -> None:
        for lr, now in self.lrs.items():
            new = min(now / self.settings.factor, level_value(self.settings.ceiling, lr))
            self.lrs[lr] = new if new - now > self.settings.eps else now
        self.left = self.settings.reset_start

    def _reset(self) -> None:
        self.lrs = {lr: lr for lr in self.lrs}
        self.best.reset()
        self.window.clear()
        self.left = self.settings.reset_start

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"window": list(self.window), "left": self.left}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.window = deque(state["window"], maxlen=self.settings.window_size)
        self.left = state["left"]


@schedule
def plateau(
    factor: Factor = 0.1,
    patience: Count = 10,
    threshold: NonNegative = 1e-4,
    threshold_mode: ThresholdMode = "rel",
    cooldown: Count = 0,
    min_lr_ratio: Fraction = 0.0,
    min_lr: NonNegative | None = None,
    warmup: Duration = 0,
    monitor: MetricName = None,
    mode: Mode | None = None,
    every: Duration | None = None,
    **common: Unpack[CommonArguments],
) -> Plateau:
    """Multiply by factor when a metric stops improving, optionally after a linear warmup.

    torch's ReduceLROnPlateau, with a warmup.
    """
    return Plateau(
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        floor=floor_level(min_lr_ratio, min_lr),
        eps=0.0,
        warmup=warmup,
        metric=MonitoredMetric(monitor, mode, every),
        **common,
    )


@schedule
def greedy(
    factor: Factor = 0.95,
    patience: Count = 10,
    threshold: NonNegative = 1e-6,
    threshold_mode: ThresholdMode = "abs",
    cooldown: Count = 0,
    warmup: Count = 0,
    min_lr_ratio: Fraction = 0.01,
    max_lr_ratio: Annotated[float, ">= 1"] = 10.0,
    min_lr: NonNegative | None = None,
    max_lr: NonNegative | None = None,
    eps: NonNegative = 1e-8,
    smooth: bool = False,
    window_size: Annotated[int, "> 0"] = 50,
    reset_start: Annotated[int, "> 0"] = 500,
    monitor: MetricName = None,
    mode: Mode | None = None,
    every: Duration | None = None,
) -> Greedy:
    """Raise the lr while a metric keeps improving, lower it when the metric stops improving.

    GreedyLR: A Novel Adaptive Learning Rate Scheduler, 2025, arXiv:2512.14527; transformers'
    `greedy`. `min_lr` and `max_lr` are absolute, as in transformers, and replace the ratios.
    """
    return Greedy(
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        warmup=warmup,
        floor=min_lr_ratio if min_lr is None else AbsoluteLevel(min_lr),
        ceiling=max_lr_ratio if max_lr is None else AbsoluteLevel(max_lr),
        eps=eps,
        smooth=smooth,
        window_size=window_size,
        reset_start=reset_start,
        metric=MonitoredMetric(monitor, mode, every),
    )
