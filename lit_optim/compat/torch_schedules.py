"""torch's schedulers by torch's names, with torch's arguments.

They give torch's values, and hold the last one where torch's would climb again (CosineAnnealingLR
past T_max). A count is of optimizer steps, or with `interval: epoch` of epochs; other units can be
written out. A run may end before they do. Where torch must be told a length, here it may be null:
the run's. Lrs are absolute, as in torch, and hold for every group alike.

Raises (all of them): ValueError naming the argument, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from lit_optim.errors import UsageError, show
from lit_optim.schedules import shapes
from lit_optim.schedules.durations import Duration, Share, parse
from lit_optim.schedules.library import Gamma, Positive, checked, stairs, triangles
from lit_optim.schedules.phase_spec import Absolute, Free, Geometric, Item, Level, Phase, Repeat
from lit_optim.schedules.phases import Interval, Phases

Factor = Annotated[float, "in [0, 1]"]
Momentum = Annotated[float, "in [0, 1)"]
Lr = Annotated[float, ">= 0"]


def as_torch(*phases: Item, interval: Interval) -> Phases:
    """Phases counted as torch does."""
    return Phases(phases, interval=interval, ticks="start", whole=False)


def some(name: str, duration: Duration) -> Duration:
    """A length that is not 0.

    Raises:
        ValueError: it is.
    """
    if parse(name, duration)[0] == 0:
        raise UsageError(f"{name} must be more than 0, got {show(duration)}")
    return duration


@checked
def ConstantLR(
    factor: Factor = 1 / 3, total_iters: Duration = 5, interval: Interval = "step"
) -> Phases:
    """`factor` at first, then 1 at once.

    torch's ConstantLR; it is a constant warmup, not a constant lr.
    """
    low = Phase(factor, factor, length=some("total_iters", total_iters), name="total_iters")
    return as_torch(low, Phase(1.0, 1.0), interval=interval)


@checked
def LinearLR(
    start_factor: Annotated[float, "in (0, 1]"] = 1 / 3,
    end_factor: Factor = 1.0,
    total_iters: Duration = 5,
    interval: Interval = "step",
) -> Phases:
    """From `start_factor` to `end_factor` in a straight line, then there.

    torch's LinearLR.
    """
    line = Phase(
        start_factor, end_factor, length=some("total_iters", total_iters), name="total_iters"
    )
    return as_torch(line, interval=interval)


@checked
def ExponentialLR(gamma: Gamma = 0.999, interval: Interval = "step") -> Phases:
    """gamma^t.

    torch's ExponentialLR.
    """
    return as_torch(Free(Geometric(gamma), 1), interval=interval)


@checked
def StepLR(step_size: Duration = "30%", gamma: Gamma = 0.1, interval: Interval = "step") -> Phases:
    """gamma^floor(t / step_size).

    torch's StepLR.
    """
    level = Phase(1.0, 1.0, length=step_size, name="step_size")
    return as_torch(Repeat((level,), decay=gamma), interval=interval)


@checked
def MultiStepLR(
    milestones: Sequence[Duration] = ("50%", "75%"),
    gamma: Gamma = 0.1,
    interval: Interval = "step",
) -> Phases:
    """gamma^(milestones passed).

    torch's MultiStepLR.
    """
    numbers = all(isinstance(milestone, int) for milestone in milestones)
    ordered = sorted(milestones, key=int) if numbers else milestones  # as torch does
    return as_torch(*stairs(ordered, gamma), interval=interval)


@checked
def PolynomialLR(
    total_iters: Duration = 5, power: Positive = 1.0, interval: Interval = "step"
) -> Phases:
    """(1 - t / total_iters)^power, then 0.

    torch's PolynomialLR.
    """
    fall = Phase(
        1.0,
        0.0,
        shapes.polynomial(power),
        length=some("total_iters", total_iters),
        name="total_iters",
    )
    return as_torch(fall, interval=interval)


@checked
def CosineAnnealingLR(
    T_max: Duration | None = None, eta_min: Lr = 0.0, interval: Interval = "step"
) -> Phases:
    """eta_min + (lr - eta_min) (1 + cos πt/T_max) / 2, then there.

    torch's CosineAnnealingLR, which climbs again past T_max; Loshchilov & Hutter 2016,
    arXiv:1608.03983.
    """
    length = None if T_max is None else some("T_max", T_max)
    fall = Phase(1.0, Absolute(eta_min, "eta_min"), shapes.cosine, length=length, name="T_max")
    return as_torch(fall, interval=interval)


@checked
def CosineAnnealingWarmRestarts(
    T_0: Duration = "25%",
    T_mult: Annotated[int, "> 0"] = 1,
    eta_min: Lr = 0.0,
    interval: Interval = "step",
) -> Phases:
    """The cosine again and again, each `T_mult` times as long.

    torch's CosineAnnealingWarmRestarts; Loshchilov & Hutter 2016, arXiv:1608.03983.
    """
    fall = Phase(1.0, Absolute(eta_min, "eta_min"), shapes.cosine, length=T_0, name="T_0")
    return as_torch(Repeat((fall,), growth=T_mult), interval=interval)


@checked
def CyclicLR(
    base_lr: Lr | None = None,
    max_lr: Lr | None = None,
    step_size_up: Duration = 2000,
    step_size_down: Duration | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Gamma = 1.0,
    cycle_momentum: bool = True,
    base_momentum: Momentum = 0.8,
    max_momentum: Momentum = 0.9,
    interval: Interval = "step",
) -> Phases:
    """Up and down between base_lr and max_lr in straight lines; momentum the other way.

    torch's CyclicLR; Smith 2015, arXiv:1506.01186. By default max_lr is the optimizer's lr and
    base_lr a tenth of it. Momentum is left alone in an optimizer without any, where torch raises
    or turns it on.
    """
    peak: Level = 1.0 if max_lr is None else Absolute(max_lr)
    base: Level = 0.1 if max_lr is None else Absolute(max_lr / 10)
    base = base if base_lr is None else Absolute(base_lr, "base_lr")
    others = {}
    if cycle_momentum:
        high, low = Absolute(max_momentum), Absolute(base_momentum)
        others["momentum"] = (triangles(high, low, step_size_up, step_size_down, mode, gamma),)
    waves = triangles(base, peak, step_size_up, step_size_down, mode, gamma)
    return Phases((waves,), interval=interval, others=others, ticks="start", whole=False)


@checked
def OneCycleLR(
    max_lr: Lr | None = None,
    total_steps: Duration | None = None,
    pct_start: Annotated[float, "in (0, 1]"] = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    cycle_momentum: bool = True,
    base_momentum: Momentum = 0.85,
    max_momentum: Momentum = 0.95,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
    three_phase: bool = False,
) -> Phases:
    """From max_lr / div_factor up, then down to that / final_div_factor; momentum the other way.

    torch's OneCycleLR; Smith & Topin 2017, arXiv:1708.07120. By default max_lr is the optimizer's
    lr. Momentum is left alone in an optimizer without any, where torch raises or turns it on.
    """
    form = shapes.cosine if anneal_strategy == "cos" else shapes.linear

    def level(factor: float) -> Level:
        return factor if max_lr is None else Absolute(max_lr * factor)

    def cycle(start: Level, peak: Level, back: Level, end: Level) -> tuple[Phase, ...]:
        up = Phase(start, peak, form, length=Share(pct_start), name="pct_start")
        if not three_phase:
            return up, Phase(peak, end, form)
        down = Phase(peak, back, form, length=Share(pct_start, less=1), name="pct_start")
        return up, down, Phase(back, end, form)

    start = 1 / div_factor
    others = {}
    if cycle_momentum:
        high, low = Absolute(max_momentum), Absolute(base_momentum)
        others["momentum"] = cycle(high, low, high, high)
    phases = cycle(level(start), level(1.0), level(start), level(start / final_div_factor))
    return Phases(phases, others=others, total=total_steps, ticks="both")
