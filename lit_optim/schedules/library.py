"""Schedules by name: each is a short function that returns a list of phases.

All of them take `total` (the length of the schedule, if it is not that of the run) and
`step_alignment` (`end`, or `start` to count as transformers and torch do). Factors multiply the
lr of each parameter group. Durations are `500` (optimizer steps), "5%" of the run, "2 epochs" or
"1000 samples". In the formulas x goes from 0 to 1 over the phase, and min is `min_lr_ratio`.

Raises (all of them): ValueError naming the argument, the value given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from typing_extensions import Unpack

from lit_optim.schedules import shapes
from lit_optim.schedules.arguments import (
    CommonArguments,
    Fraction,
    Gamma,
    NonNegative,
    Positive,
    floor_level,
    warmup_phase,
)
from lit_optim.schedules.durations import Duration
from lit_optim.schedules.phase_schedule import Phases
from lit_optim.schedules.phase_spec import (
    AbsoluteLevel,
    FormulaSegment,
    Geometric,
    InverseSqrt,
    Level,
    Phase,
    Repeat,
)
from lit_optim.schedules.registry import schedule


@schedule
def none() -> None:
    """No schedule: the lr stays constant.

    lit-optim.
    """


@schedule
def constant(warmup: Duration = 0, **common: Unpack[CommonArguments]) -> Phases:
    """Constant lr, optionally after a linear warmup.

    transformers' `constant`; with a warmup, its `constant_with_warmup`.
    """
    return Phases((warmup_phase(warmup), Phase(1.0, 1.0)), **common)


@schedule
def constant_warmup(warmup: Duration = "5%", **common: Unpack[CommonArguments]) -> Phases:
    """Linear warmup, then constant lr.

    transformers' `constant_with_warmup`.
    """
    return Phases((warmup_phase(warmup), Phase(1.0, 1.0)), **common)


@schedule
def linear(
    warmup: Duration = 0, min_lr_ratio: Fraction = 0.0, **common: Unpack[CommonArguments]
) -> Phases:
    """Linear decay to 0 or a floor: 1 - (1 - min) x.

    Defazio et al. 2023, When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement,
    arXiv:2310.07831.
    """
    return Phases((warmup_phase(warmup), Phase(1.0, min_lr_ratio)), **common)


@schedule
def linear_warmup(
    warmup: Duration = "5%", min_lr_ratio: Fraction = 0.0, **common: Unpack[CommonArguments]
) -> Phases:
    """Linear warmup, then linear decay to 0 or a floor: 1 - (1 - min) x.

    Defazio et al. 2023, arXiv:2310.07831; transformers' `linear`.
    """
    return Phases((warmup_phase(warmup), Phase(1.0, min_lr_ratio)), **common)


@schedule
def cosine(
    warmup: Duration = 0, min_lr_ratio: Fraction = 0.0, **common: Unpack[CommonArguments]
) -> Phases:
    """Cosine decay to 0 or a floor: min + (1 - min) (1 + cos πx) / 2.

    Loshchilov & Hutter 2016, SGDR: Stochastic Gradient Descent with Warm Restarts,
    arXiv:1608.03983, with a single cycle.
    """
    return Phases((warmup_phase(warmup), Phase(1.0, min_lr_ratio, shapes.cosine)), **common)


@schedule
def cosine_warmup(
    warmup: Duration = "5%", min_lr_ratio: Fraction = 0.0, **common: Unpack[CommonArguments]
) -> Phases:
    """Linear warmup, then cosine decay to 0 or a floor: min + (1 - min) (1 + cos πx) / 2.

    Loshchilov & Hutter 2016, arXiv:1608.03983; transformers' `cosine`.
    """
    return Phases((warmup_phase(warmup), Phase(1.0, min_lr_ratio, shapes.cosine)), **common)


@schedule
def cosine_min_lr(
    warmup: Duration = "5%",
    min_lr_ratio: Fraction | None = None,
    min_lr: NonNegative | None = None,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Linear warmup, then cosine decay to a floor: a tenth, `min_lr_ratio`, or the lr `min_lr`.

    Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv:2203.15556 (a
    tenth); transformers' `cosine_with_min_lr`.
    """
    has_default = min_lr_ratio is None and min_lr is None
    floor = floor_level(0.1 if has_default else min_lr_ratio, min_lr)
    return Phases((warmup_phase(warmup), Phase(1.0, floor, shapes.cosine)), **common)


@schedule
def cosine_restarts(
    cycles: Annotated[int, "> 0"] = 4,
    growth: Annotated[float, ">= 1"] = 1.0,
    decay: Gamma = 1.0,
    warmup: Duration = "5%",
    min_lr_ratio: Fraction = 0.0,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Linear warmup, then cosine decay with warm restarts; cycles may grow and peaks decay.

    Loshchilov & Hutter 2016, arXiv:1608.03983; transformers' `cosine_with_restarts`. Each cycle is
    `growth` times as long as the one before, and its height above the floor `decay` times as high.
    """
    wave = Phase(1.0, min_lr_ratio, shapes.cosine)
    waves = Repeat((wave,), count=cycles, growth=growth, decay=decay, floor=min_lr_ratio)
    return Phases((warmup_phase(warmup), waves), **common)


@schedule
def polynomial(
    power: Positive = 1.0,
    warmup: Duration = 0,
    min_lr_ratio: Fraction = 0.0,
    min_lr: NonNegative | None = None,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Polynomial decay: min + (1 - min) (1 - x)^power.

    transformers' `polynomial`, torch's PolynomialLR; Chen et al. 2016, arXiv:1606.00915 (0.9).
    """
    decay = Phase(1.0, floor_level(min_lr_ratio, min_lr), shapes.polynomial(power))
    return Phases((warmup_phase(warmup), decay), **common)


@schedule
def inverse_sqrt(
    warmup: Duration = "5%", timescale: Duration | None = None, **common: Unpack[CommonArguments]
) -> Phases:
    """Linear warmup, then decay by 1 / √(1 + s / timescale), s steps later; needs no run length.

    Zhai et al. 2021, Scaling Vision Transformers, arXiv:2106.04560; transformers' `inverse_sqrt`.
    """
    if timescale is None:  # Vaswani et al. 2017; without a warmup, transformers' number
        timescale = 10_000 if str(warmup).strip() in ("0", "0%") else warmup
    decay = FormulaSegment(InverseSqrt(), timescale, name="timescale")
    return Phases((warmup_phase(warmup), decay), **common)


@schedule
def wsd(
    warmup: Duration = "5%",
    cooldown: Duration = "20%",
    shape: shapes.ShapeName = "1-sqrt",
    min_lr_ratio: Fraction = 0.0,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Warmup, stable, decay: linear warmup, constant lr, then a cooldown at the end of the run.

    Hu et al. 2024, MiniCPM, arXiv:2404.06395; Hägele et al. 2024, Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations, arXiv:2405.18392 (1 - √x). The cooldown may have the
    shape of any phase; one that decays by a factor, such as `exponential`, needs min_lr_ratio > 0.
    """
    form = shapes.parse_shape("shape", shape)
    decay = Phase(1.0, min_lr_ratio, length=cooldown, name="cooldown", **form)
    return Phases((warmup_phase(warmup), Phase(1.0, 1.0), decay), **common)


@schedule
def step(
    step_size: Duration = "30%",
    gamma: Gamma = 0.1,
    warmup: Duration = 0,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Multiply by gamma every step_size: gamma^floor(t / step_size).

    He et al. 2015, Deep Residual Learning, arXiv:1512.03385; torch's StepLR.
    """
    level = Phase(1.0, 1.0, length=step_size, name="step_size")
    return Phases((warmup_phase(warmup), Repeat((level,), decay=gamma)), **common)


@schedule
def multistep(
    milestones: Sequence[Duration] = ("50%", "75%"),
    gamma: Gamma = 0.1,
    warmup: Duration = 0,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Multiply by gamma at each milestone, counted from the start of the run.

    He et al. 2015, arXiv:1512.03385; torch's MultiStepLR.
    """
    return Phases((warmup_phase(warmup), *milestone_phases(milestones, gamma)), **common)


def milestone_phases(milestones: Sequence[Duration], gamma: float) -> list[Phase]:
    """A constant level until each milestone, and one after the last."""
    levels = [gamma**index for index in range(len(milestones) + 1)]
    phases = [
        Phase(level, level, until=milestone, name="milestones")
        for level, milestone in zip(levels, milestones, strict=False)
    ]
    return [*phases, Phase(levels[-1], levels[-1])]


@schedule
def exponential(
    gamma: Gamma = 0.95,
    every: Duration = "1%",
    warmup: Duration = 0,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Exponential decay: gamma^(t / every), smoothly.

    torch's ExponentialLR. There, `every` is one epoch or step.
    """
    decay = FormulaSegment(Geometric(gamma), every, name="every")
    return Phases((warmup_phase(warmup), decay), **common)


Momentum = Annotated[tuple[float, float], "in [0, 1)"]


@schedule
def cyclic(
    step_size_up: Duration = "10%",
    step_size_down: Duration | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Gamma = 1.0,
    min_lr_ratio: Fraction = 0.1,
    momentum: Momentum | None = None,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Triangular cycles between a floor and the peak lr.

    Smith 2015, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186; torch's
    CyclicLR. `triangular2` halves the height after each cycle; `exp_range` multiplies it by
    gamma^t. `momentum` (low, high) cycles in the opposite direction, in optimizers that have
    momentum or betas.
    """
    hyperparameters = {}
    if momentum is not None:
        low, high = map(AbsoluteLevel, momentum)
        cycles = triangle_cycles(high, low, step_size_up, step_size_down, mode, gamma)
        hyperparameters["momentum"] = (cycles,)
    cycles = triangle_cycles(min_lr_ratio, 1.0, step_size_up, step_size_down, mode, gamma)
    return Phases((cycles,), hyperparameters=hyperparameters, **common)


def triangle_cycles(
    base: Level, peak: Level, up: Duration, down: Duration | None, mode: str, gamma: float
) -> Repeat:
    """Cycles from the base to the peak and back, whose height shrinks according to `mode`."""
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


@schedule
def one_cycle(
    warmup: Duration = "30%",
    start_ratio: Fraction = 0.04,
    end_ratio: Fraction = 4e-6,
    shape: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
    momentum: Momentum | None = (0.85, 0.95),
    **common: Unpack[CommonArguments],
) -> Phases:
    """Warmup to the peak lr, then decay to almost 0, while momentum does the opposite.

    Smith & Topin 2017, Super-Convergence, arXiv:1708.07120; torch's OneCycleLR. `momentum`
    (low, high) is set in optimizers that have momentum or betas; null leaves them unchanged. With
    `three_phase` the lr returns to its start within another `warmup`, then decays to its end.
    """
    form = shapes.cosine if shape == "cosine" else shapes.linear

    def cycle(start: Level, peak: Level, end: Level) -> tuple[Phase, ...]:
        up = Phase(start, peak, form, length=warmup, name="warmup")
        if not three_phase:
            return up, Phase(peak, end, form)
        return up, Phase(peak, start, form, length=warmup, name="warmup"), Phase(start, end, form)

    hyperparameters = {}
    if momentum is not None:
        low, high = map(AbsoluteLevel, momentum)
        hyperparameters["momentum"] = cycle(high, low, high)
    return Phases(cycle(start_ratio, 1.0, end_ratio), hyperparameters=hyperparameters, **common)
