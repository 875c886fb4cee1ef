"""The schedules by name: one short function each, a name for a list of phases.

All take `total` (the length of the schedule if not that of the run) and `ticks` (`end`, or `start`
to count as transformers and torch do) beside their own arguments. Factors multiply the optimizer's
lr, group by group. Durations are `500` (optimizer steps), "5%" of the run, "2 epochs" or
"1000 samples".

Raises (all of them): ValueError naming the argument, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Literal, ParamSpec, TypedDict, TypeVar

from typing_extensions import Unpack

from lit_optim.errors import UsageError, suggest
from lit_optim.hyperparameters import check, hints_of, plain, plain_values
from lit_optim.schedules import shapes
from lit_optim.schedules.core import Schedule, Ticks
from lit_optim.schedules.durations import Duration
from lit_optim.schedules.phase_spec import (
    Absolute,
    Free,
    Geometric,
    InverseSqrt,
    Level,
    Phase,
    Repeat,
)
from lit_optim.schedules.phases import Phases

Share = Annotated[float, "in [0, 1]"]
Positive = Annotated[float, "> 0"]
Gamma = Annotated[float, "in (0, 1]"]
P = ParamSpec("P")
S = TypeVar("S", bound=Schedule)


class Counting(TypedDict, total=False):
    """The arguments that every schedule takes."""

    total: Duration | None
    ticks: Ticks


def checked(schedule: Callable[P, S]) -> Callable[P, S]:
    """Hold the keyword arguments against their annotations before the phases are made."""

    @wraps(schedule)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> S:
        known = [name for name in hints_of(schedule) if name not in ("counting", "return")]
        for key in kwargs:
            if key not in known:
                near = suggest(key, known)
                raise UsageError(
                    f"{schedule.__name__.rstrip('_')} takes no {key}{near} (it takes "
                    f"{', '.join(known)})"
                )
        check(schedule, kwargs)
        return schedule(*map(plain, args), **plain_values(kwargs))

    return wrapper


def warm(warmup: Duration) -> Phase:
    """The first phase of anything: from 0 to the peak in a straight line."""
    return Phase(0.0, 1.0, length=warmup, name="warmup")


def floor_of(min_lr_ratio: float | None, min_lr: float | None) -> Level:
    """The floor, given as a share of the optimizer's lr or as a lr; by default 0.

    Raises:
        ValueError: it is given twice.
    """
    if min_lr is None:
        return min_lr_ratio or 0.0
    if min_lr_ratio:
        raise UsageError(f"min_lr={min_lr:g} and min_lr_ratio={min_lr_ratio:g}: give one of them")
    return Absolute(min_lr)


@checked
def constant(warmup: Duration = 0, **counting: Unpack[Counting]) -> Phases:
    """1 all the way.

    transformers' `constant`; with a warmup its `constant_with_warmup`.
    """
    return Phases((warm(warmup), Phase(1.0, 1.0)), **counting)


@checked
def constant_warmup(warmup: Duration = "5%", **counting: Unpack[Counting]) -> Phases:
    """Up in a straight line, then 1.

    transformers' `constant_with_warmup`.
    """
    return Phases((warm(warmup), Phase(1.0, 1.0)), **counting)


@checked
def linear(warmup: Duration = 0, min_lr_ratio: Share = 0.0, **counting: Unpack[Counting]) -> Phases:
    """1 - (1 - min) x.

    Defazio et al. 2023, When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement,
    arXiv:2310.07831.
    """
    return Phases((warm(warmup), Phase(1.0, min_lr_ratio)), **counting)


@checked
def linear_warmup(
    warmup: Duration = "5%", min_lr_ratio: Share = 0.0, **counting: Unpack[Counting]
) -> Phases:
    """Warmup, then 1 - (1 - min) x.

    Defazio et al. 2023, arXiv:2310.07831; transformers' `linear`.
    """
    return Phases((warm(warmup), Phase(1.0, min_lr_ratio)), **counting)


@checked
def cosine(warmup: Duration = 0, min_lr_ratio: Share = 0.0, **counting: Unpack[Counting]) -> Phases:
    """Down: min + (1 - min) (1 + cos πx) / 2.

    Loshchilov & Hutter 2016, SGDR: Stochastic Gradient Descent with Warm Restarts,
    arXiv:1608.03983, one cycle of it.
    """
    return Phases((warm(warmup), Phase(1.0, min_lr_ratio, shapes.cosine)), **counting)


@checked
def cosine_warmup(
    warmup: Duration = "5%", min_lr_ratio: Share = 0.0, **counting: Unpack[Counting]
) -> Phases:
    """Warmup, then min + (1 - min) (1 + cos πx) / 2.

    Loshchilov & Hutter 2016, arXiv:1608.03983; transformers' `cosine`.
    """
    return Phases((warm(warmup), Phase(1.0, min_lr_ratio, shapes.cosine)), **counting)


@checked
def cosine_min_lr(
    warmup: Duration = "5%",
    min_lr_ratio: Share | None = None,
    min_lr: Annotated[float, ">= 0"] | None = None,
    **counting: Unpack[Counting],
) -> Phases:
    """Warmup, then a cosine to a floor: a tenth, or `min_lr_ratio`, or the lr `min_lr` itself.

    Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv:2203.15556 (a
    tenth); transformers' `cosine_with_min_lr`.
    """
    floor = floor_of(0.1 if min_lr_ratio is None and min_lr is None else min_lr_ratio, min_lr)
    return Phases((warm(warmup), Phase(1.0, floor, shapes.cosine)), **counting)


@checked
def cosine_restarts(
    cycles: Annotated[int, "> 0"] = 4,
    growth: Annotated[float, ">= 1"] = 1.0,
    decay: Gamma = 1.0,
    warmup: Duration = "5%",
    min_lr_ratio: Share = 0.0,
    **counting: Unpack[Counting],
) -> Phases:
    """Warmup, then so many cosines; each is `growth` times as long, its peak `decay` times as high.

    Loshchilov & Hutter 2016, arXiv:1608.03983; transformers' `cosine_with_restarts`. What `decay`
    multiplies is the height over the floor.
    """
    wave = Phase(1.0, min_lr_ratio, shapes.cosine)
    fall = Repeat((wave,), count=cycles, growth=growth, decay=decay, floor=min_lr_ratio)
    return Phases((warm(warmup), fall), **counting)


@checked
def polynomial(
    power: Positive = 1.0,
    warmup: Duration = 0,
    min_lr_ratio: Share = 0.0,
    min_lr: Annotated[float, ">= 0"] | None = None,
    **counting: Unpack[Counting],
) -> Phases:
    """Min + (1 - min) (1 - x)^power.

    transformers' `polynomial`, torch's PolynomialLR; Chen et al. 2016, arXiv:1606.00915 (0.9).
    """
    fall = Phase(1.0, floor_of(min_lr_ratio, min_lr), shapes.polynomial(power))
    return Phases((warm(warmup), fall), **counting)


@checked
def inverse_sqrt(
    warmup: Duration = "5%", timescale: Duration | None = None, **counting: Unpack[Counting]
) -> Phases:
    """Warmup, then 1 / √(1 + s / timescale), s steps after it; needs no end of the run.

    Zhai et al. 2021, Scaling Vision Transformers, arXiv:2106.04560; transformers' `inverse_sqrt`.
    """
    if timescale is None:  # the curve of Vaswani et al. 2017; transformers' number without a warmup
        timescale = 10_000 if str(warmup).strip() in ("0", "0%") else warmup
    fall = Free(InverseSqrt(), timescale, name="timescale")
    return Phases((warm(warmup), fall), **counting)


@checked
def wsd(
    warmup: Duration = "5%",
    cooldown: Duration = "20%",
    shape: shapes.ShapeName = "1-sqrt",
    min_lr_ratio: Share = 0.0,
    **counting: Unpack[Counting],
) -> Phases:
    """Warmup, stable at the peak, then down in the last part of the run.

    Hu et al. 2024, MiniCPM, arXiv:2404.06395; Hägele et al. 2024, Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations, arXiv:2405.18392 (1 - √x). The cooldown may have any
    shape of phases; one that falls by a factor, as `exponential` does, needs a min_lr_ratio > 0.
    """
    form = shapes.named("shape", shape)
    fall = Phase(1.0, min_lr_ratio, length=cooldown, name="cooldown", **form)
    return Phases((warm(warmup), Phase(1.0, 1.0), fall), **counting)


@checked
def step(
    step_size: Duration = "30%",
    gamma: Gamma = 0.1,
    warmup: Duration = 0,
    **counting: Unpack[Counting],
) -> Phases:
    """gamma^floor(t / step_size): down by a factor every step_size.

    He et al. 2015, Deep Residual Learning, arXiv:1512.03385; torch's StepLR.
    """
    steps = Repeat((Phase(1.0, 1.0, length=step_size, name="step_size"),), decay=gamma)
    return Phases((warm(warmup), steps), **counting)


@checked
def multistep(
    milestones: Sequence[Duration] = ("50%", "75%"),
    gamma: Gamma = 0.1,
    warmup: Duration = 0,
    **counting: Unpack[Counting],
) -> Phases:
    """gamma^(milestones passed): down by a factor at each of them, counted from the run's start.

    He et al. 2015, arXiv:1512.03385; torch's MultiStepLR.
    """
    return Phases((warm(warmup), *stairs(milestones, gamma)), **counting)


def stairs(milestones: Sequence[Duration], gamma: float) -> list[Phase]:
    """A level until each milestone, and one after the last."""
    levels = [gamma**index for index in range(len(milestones) + 1)]
    steps = [
        Phase(level, level, until=milestone, name="milestones")
        for level, milestone in zip(levels, milestones, strict=False)
    ]
    return [*steps, Phase(levels[-1], levels[-1])]


@checked
def exponential(
    gamma: Gamma = 0.95,
    every: Duration = "1%",
    warmup: Duration = 0,
    **counting: Unpack[Counting],
) -> Phases:
    """gamma^(t / every), smoothly.

    torch's ExponentialLR, where `every` is one epoch or step.
    """
    fall = Free(Geometric(gamma), every, name="every")
    return Phases((warm(warmup), fall), **counting)


Momentum = Annotated[tuple[float, float], "in [0, 1)"]


@checked
def cyclic(
    step_size_up: Duration = "10%",
    step_size_down: Duration | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Gamma = 1.0,
    min_lr_ratio: Share = 0.1,
    momentum: Momentum | None = None,
    **counting: Unpack[Counting],
) -> Phases:
    """Up and down between a floor and the peak, in straight lines.

    Smith 2015, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186; torch's
    CyclicLR. triangular2 halves the height with each cycle, exp_range multiplies it by gamma^t.
    `momentum` (low, high) goes the other way where the optimizer has momentum or betas.
    """
    others = {}
    if momentum is not None:
        low, high = map(Absolute, momentum)
        others["momentum"] = (triangles(high, low, step_size_up, step_size_down, mode, gamma),)
    waves = triangles(min_lr_ratio, 1.0, step_size_up, step_size_down, mode, gamma)
    return Phases((waves,), others=others, **counting)


def triangles(
    base: Level, peak: Level, up: Duration, down: Duration | None, mode: str, gamma: float
) -> Repeat:
    """From the base to the peak and back, again and again, lower each time as `mode` says."""
    down = up if down is None else down
    return Repeat(
        (
            Phase(base, peak, length=up, name="step_size_up"),
            Phase(peak, base, length=down, name="step_size_down"),
        ),
        decay=0.5 if mode == "triangular2" else 1.0,
        fade=gamma if mode == "exp_range" else 1.0,
        floor=base,
    )


@checked
def one_cycle(
    warmup: Duration = "30%",
    start_ratio: Share = 0.04,
    end_ratio: Share = 4e-6,
    shape: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
    momentum: Momentum | None = (0.85, 0.95),
    **counting: Unpack[Counting],
) -> Phases:
    """Up from a start to the peak, then down to almost nothing; momentum the other way.

    Smith & Topin 2017, Super-Convergence, arXiv:1708.07120; torch's OneCycleLR. `momentum`
    (low, high) is set where the optimizer has momentum or betas; null leaves them alone. With three
    phases the way down ends at the start after another `warmup`, and then goes on to the end.
    """
    form = shapes.cosine if shape == "cosine" else shapes.linear

    def cycle(start: Level, peak: Level, end: Level) -> tuple[Phase, ...]:
        up = Phase(start, peak, form, length=warmup, name="warmup")
        if not three_phase:
            return up, Phase(peak, end, form)
        return up, Phase(peak, start, form, length=warmup, name="warmup"), Phase(start, end, form)

    others = {}
    if momentum is not None:
        low, high = map(Absolute, momentum)
        others["momentum"] = cycle(high, low, high)
    return Phases(cycle(start_ratio, 1.0, end_ratio), others=others, **counting)


def none() -> None:
    """No scheduler: the lr stays what the optimizer was given.

    Ours.
    """
