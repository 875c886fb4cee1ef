"""Schedules that follow a metric: lower where it stands still, higher where it improves.

The metric is observed after every validation, or every so many updates, as a training loss may be.
Their state is saved.

Raises (all of them): ValueError naming the argument, what was given and what is allowed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from typing_extensions import Unpack

from lit_optim.errors import UsageError, show
from lit_optim.schedules.core import Curve, Follow, Mode, Monitor, Schedule
from lit_optim.schedules.durations import Duration, Horizon, parse
from lit_optim.schedules.library import Counting, Share, checked, floor_of, warm
from lit_optim.schedules.phase_spec import Absolute, Level, Phase, floor_below, value_of
from lit_optim.schedules.phases import Phases

Factor = Annotated[float, "in (0, 1)"]
Count = Annotated[int, ">= 0"]
Small = Annotated[float, ">= 0"]
Relation = Literal["rel", "abs"]


class Best:
    """The best value so far, and how often in a row it was or was not beaten.

    Args:
        mode: is it best when min or max.
        threshold: by how much it must be beaten.
        relation: whether that is a share of the best, or an amount.
    """

    def __init__(self, mode: Mode, threshold: float, relation: Relation) -> None:
        self.sign = 1 if mode == "min" else -1
        self.threshold, self.relation = threshold, relation
        self.reset()

    def reset(self) -> None:
        """As at the beginning."""
        self.best = self.sign * math.inf
        self.bad = self.good = 0

    def set_direction(self, mode: Mode) -> None:
        """Whether it is best when min or max; a best value that is known already is kept."""
        self.sign = 1 if mode == "min" else -1
        if math.isinf(self.best):
            self.best = self.sign * math.inf

    def note(self, value: float) -> None:
        """Take a new value; NaN beats nothing."""
        if self.relation == "rel":
            bound = self.best * (1 - self.sign * self.threshold)
        else:
            bound = self.best - self.sign * self.threshold
        if self.sign * value < self.sign * bound:
            self.best, self.bad, self.good = value, 0, self.good + 1
        else:
            self.bad, self.good = self.bad + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"best": self.best, "bad": self.bad, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.bad, self.good = state["best"], state["bad"], state["good"]


@dataclass(frozen=True, kw_only=True)
class Plateau(Schedule):
    """See `plateau`."""

    warmup: Duration
    factor: float
    patience: int
    threshold: float
    threshold_mode: Relation
    cooldown: int
    floor: Level
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.durations()  # are checked by being read

    def _rise(self) -> Phases:
        return Phases((warm(self.warmup), Phase(1.0, 1.0)), total=self.total, ticks=self.ticks)

    def check(self, lr: float) -> None:  # noqa: D102
        floor_below(self.floor, lr)

    def durations(self) -> list[Duration]:  # noqa: D102
        return [*self._rise().durations(), *_every(self.follows)]

    def fit(self, horizon: Horizon) -> Curve:  # noqa: D102
        return PlateauCurve(self, self._rise().curve(horizon), horizon)


def _every(follows: Follow | None) -> list[Duration]:
    """How many updates lie between two observations, if it is not a validation.

    Raises:
        ValueError: it is not a duration, or it is 0.
    """
    if follows is None or follows.every is None:
        return []
    if parse("every", follows.every)[0] == 0:
        raise UsageError(f"every must be more than 0, got {show(follows.every)}")
    return [follows.every]


class Following(Curve):
    """Remembers the lr that it has brought each group's own lr to."""

    def __init__(self, settings: Plateau | Greedy, horizon: Horizon) -> None:
        super().__init__(horizon.steps)
        for every in _every(settings.follows):
            self.observed_every = max(1, int(horizon.resolve("every", every)))
        self.follows = follows = settings.follows
        mode = (follows and follows.mode) or "min"
        self.best = Best(mode, settings.threshold, settings.threshold_mode)
        self.lrs: dict[float, float] = {}
        self.wait = 0

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """What the lr was brought to."""
        return self.lrs.setdefault(lr, lr)

    def set_direction(self, mode: Mode) -> None:  # noqa: D102
        self.best.set_direction(mode)

    def lower(self, factor: float, floor: Level, eps: float) -> None:
        """Multiply, but not below the floor, and not by less than `eps`."""
        for lr, now in self.lrs.items():
            new = max(now * factor, value_of(floor, lr))
            self.lrs[lr] = new if now - new > eps else now

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return self.best.state_dict() | {"lrs": dict(self.lrs), "wait": self.wait}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.best.load_state_dict(state)
        self.lrs, self.wait = dict(state["lrs"]), state["wait"]


class PlateauCurve(Following):
    """Lower after `patience` validations without a new best."""

    def __init__(self, settings: Plateau, rise: Curve, horizon: Horizon) -> None:
        super().__init__(settings, horizon)
        self.settings, self.rise = settings, rise

    def __call__(self, t: int, lr: float = 1.0) -> float:
        """What the lr was brought to, times the warmup."""
        return super().__call__(t, lr) * self.rise(t)

    def milestones(self) -> list[int]:
        """Those of the warmup."""
        return self.rise.milestones()

    def observe(self, metric: float) -> None:
        """One validation."""
        given = self.settings
        self.best.note(metric)
        if self.wait > 0:
            self.wait -= 1
            self.best.bad = 0
        if self.best.bad > given.patience:
            self.lower(given.factor, given.floor, given.eps)
            self.wait, self.best.bad = given.cooldown, 0


@dataclass(frozen=True, kw_only=True)
class Greedy(Schedule):
    """See `greedy`."""

    factor: float
    patience: int
    threshold: float
    threshold_mode: Relation
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
        self.durations()  # are checked by being read

    def check(self, lr: float) -> None:  # noqa: D102
        floor_below(self.floor, lr)
        if value_of(self.ceiling, lr) < lr:
            raise UsageError(
                f"max_lr={value_of(self.ceiling, lr):g} is below the optimizer's lr, {lr:g}"
            )

    def durations(self) -> list[Duration]:  # noqa: D102
        return _every(self.follows)

    def fit(self, horizon: Horizon) -> Curve:  # noqa: D102
        return GreedyCurve(self, horizon)


class GreedyCurve(Following):
    """Higher after `patience` new bests in a row, lower after as many validations without one."""

    def __init__(self, settings: Greedy, horizon: Horizon) -> None:
        super().__init__(settings, horizon)
        self.settings = settings
        self.window: deque[float] = deque(maxlen=settings.window_size)
        self.left = settings.reset_start

    def observe(self, metric: float) -> None:
        """One validation."""
        given = self.settings
        if given.smooth:
            self.window.append(metric)
            metric = sum(self.window) / len(self.window)
        if self.wait > 0:
            self.wait -= 1
            self.best.bad = self.best.good = 0
            return
        self.best.note(metric)
        if self.best.good > given.patience:
            self._raise()
            self.wait, self.best.good = given.warmup, 0
        elif self.best.bad > given.patience:
            self.lower(given.factor, given.floor, given.eps)
            if all(now <= value_of(given.floor, lr) for lr, now in self.lrs.items()):
                self.left -= 1
                if self.left <= 0:
                    self._begin_anew()
            self.wait, self.best.bad = given.cooldown, 0

    def _raise(self) -> None:
        for lr, now in self.lrs.items():
            new = min(now / self.settings.factor, value_of(self.settings.ceiling, lr))
            self.lrs[lr] = new if new - now > self.settings.eps else now
        self.left = self.settings.reset_start

    def _begin_anew(self) -> None:
        self.lrs = {lr: lr for lr in self.lrs}
        self.best.reset()
        self.window.clear()
        self.left = self.settings.reset_start

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return super().state_dict() | {"window": list(self.window), "left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state)
        self.window = deque(state["window"], maxlen=self.settings.window_size)
        self.left = state["left"]


@checked
def plateau(
    factor: Factor = 0.1,
    patience: Count = 10,
    threshold: Small = 1e-4,
    threshold_mode: Relation = "rel",
    cooldown: Count = 0,
    min_lr_ratio: Share = 0.0,
    min_lr: Small | None = None,
    warmup: Duration = 0,
    monitor: Monitor = None,
    mode: Mode | None = None,
    every: Duration | None = None,
    **counting: Unpack[Counting],
) -> Plateau:
    """Lower by a factor after `patience` validations without a new best.

    torch's ReduceLROnPlateau, with a warmup.
    """
    return Plateau(
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        floor=floor_of(min_lr_ratio, min_lr),
        eps=0.0,
        warmup=warmup,
        follows=Follow(monitor, mode, every),
        **counting,
    )


@checked
def ReduceLROnPlateau(
    factor: Factor = 0.1,
    patience: Count = 10,
    threshold: Small = 1e-4,
    threshold_mode: Relation = "rel",
    cooldown: Count = 0,
    min_lr: Small = 0.0,
    eps: Small = 1e-8,
    monitor: Monitor = None,
    mode: Mode | None = None,
) -> Plateau:
    """Lower by a factor after `patience` validations without a new best.

    torch's ReduceLROnPlateau.
    """
    same = plateau(
        factor, patience, threshold, threshold_mode, cooldown, 0.0, min_lr, 0, monitor, mode
    )
    return replace(same, eps=eps)


@checked
def greedy(
    factor: Factor = 0.95,
    patience: Count = 10,
    threshold: Small = 1e-6,
    threshold_mode: Relation = "abs",
    cooldown: Count = 0,
    warmup: Count = 0,
    min_lr_ratio: Share = 0.01,
    max_lr_ratio: Annotated[float, ">= 1"] = 10.0,
    min_lr: Small | None = None,
    max_lr: Small | None = None,
    eps: Small = 1e-8,
    smooth: bool = False,
    window_size: Annotated[int, "> 0"] = 50,
    reset_start: Annotated[int, "> 0"] = 500,
    monitor: Monitor = None,
    mode: Mode | None = None,
    every: Duration | None = None,
) -> Greedy:
    """Higher by a factor after `patience` new bests in a row, lower after as many without one.

    GreedyLR: A Novel Adaptive Learning Rate Scheduler, 2025, arXiv:2512.14527; transformers'
    `greedy`, whose bounds are absolute: `min_lr` and `max_lr` are, in place of the ratios.
    """
    return Greedy(
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        warmup=warmup,
        floor=min_lr_ratio if min_lr is None else Absolute(min_lr),
        ceiling=max_lr_ratio if max_lr is None else Absolute(max_lr),
        eps=eps,
        smooth=smooth,
        window_size=window_size,
        reset_start=reset_start,
        follows=Follow(monitor, mode, every),
    )
