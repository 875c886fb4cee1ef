"""torch's schedulers under torch's names, with torch's arguments.

They have torch's values, except that they keep the last one where torch's would rise again
(CosineAnnealingLR past T_max). A count is a number of optimizer steps, or of epochs with
`interval: epoch`; other units can be written out. A run may end before the schedule does. A length
that torch requires may be null here: the length of the run. Lrs are absolute, as in torch, and the
same for every group.

Raises (all of them): ValueError naming the argument, the value given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from lit_optim.errors import UsageError, show
from lit_optim.schedules import shapes
from lit_optim.schedules.arguments import Fraction, Gamma, NonNegative, Positive
from lit_optim.schedules.combinators import (
    CHAIN,
    SEQUENCE,
    Chained,
    Part,
    Sequential,
    build_parts,
)
from lit_optim.schedules.curve import MetricName, Mode
from lit_optim.schedules.durations import Duration, RunFraction, parse_duration
from lit_optim.schedules.formula import FormulaText
from lit_optim.schedules.formula_schedules import FormulaSchedule
from lit_optim.schedules.library import milestone_phases, triangle_cycles
from lit_optim.schedules.metric_schedules import (
    Count,
    Factor,
    Plateau,
    ThresholdMode,
    plateau,
)
from lit_optim.schedules.phase_schedule import Interval, Phases
from lit_optim.schedules.phase_spec import (
    AbsoluteLevel,
    FormulaSegment,
    Geometric,
    Level,
    Phase,
    Repeat,
    Segment,
)
from lit_optim.schedules.registry import schedule

Momentum = Annotated[float, "in [0, 1)"]


def torch_phases(*phases: Segment, interval: Interval) -> Phases:
    """Phases whose steps are counted as in torch."""
    return Phases(phases, interval=interval, step_alignment="start", must_fit=False)


def check_positive(name: str, duration: Duration) -> Duration:
    """Return a length after checking that it is not 0.

    Raises:
        ValueError: it is 0.
    """
    if parse_duration(name, duration)[0] == 0:
        raise UsageError(f"{name} must be more than 0, got {show(duration)}")
    return duration


@schedule
def ConstantLR(
    factor: Fraction = 1 / 3, total_iters: Duration = 5, interval: Interval = "step"
) -> Phases:
    """Multiply by factor for the first total_iters, then constant lr.

    torch's ConstantLR. It is a kind of warmup.
    """
    low = Phase(
        factor, factor, length=check_positive("total_iters", total_iters), name="total_iters"
    )
    return torch_phases(low, Phase(1.0, 1.0), interval=interval)


@schedule
def LinearLR(
    start_factor: Annotated[float, "in (0, 1]"] = 1 / 3,
    end_factor: Fraction = 1.0,
    total_iters: Duration = 5,
    interval: Interval = "step",
) -> Phases:
    """Linear change from start_factor to end_factor over total_iters, then constant.

    torch's LinearLR.
    """
    line = Phase(
        start_factor,
        end_factor,
        length=check_positive("total_iters", total_iters),
        name="total_iters",
    )
    return torch_phases(line, interval=interval)


@schedule
def ExponentialLR(gamma: Gamma = 0.999, interval: Interval = "step") -> Phases:
    """Exponential decay: gamma^t.

    torch's ExponentialLR.
    """
    return torch_phases(FormulaSegment(Geometric(gamma), 1), interval=interval)


@schedule
def StepLR(step_size: Duration = "30%", gamma: Gamma = 0.1, interval: Interval = "step") -> Phases:
    """Multiply by gamma every step_size: gamma^floor(t / step_size).

    torch's StepLR.
    """
    level = Phase(1.0, 1.0, length=step_size, name="step_size")
    return torch_phases(Repeat((level,), decay=gamma), interval=interval)


@schedule
def MultiStepLR(
    milestones: Sequence[Duration] = ("50%", "75%"),
    gamma: Gamma = 0.1,
    interval: Interval = "step",
) -> Phases:
    """Multiply by gamma at each milestone.

    torch's MultiStepLR.
    """
    are_numbers = all(isinstance(milestone, int) for milestone in milestones)
    ordered = sorted(milestones, key=int) if are_numbers else milestones  # as torch does
    return torch_phases(*milestone_phases(ordered, gamma), interval=interval)


@schedule
def PolynomialLR(
    total_iters: Duration = 5, power: Positive = 1.0, interval: Interval = "step"
) -> Phases:
    """Polynomial decay to 0: (1 - t / total_iters)^power.

    torch's PolynomialLR.
    """
    decay = Phase(
        1.0,
        0.0,
        shapes.polynomial(power),
        length=check_positive("total_iters", total_iters),
        name="total_iters",
    )
    return torch_phases(decay, interval=interval)


@schedule
def CosineAnnealingLR(
    T_max: Duration | None = None, eta_min: NonNegative = 0.0, interval: Interval = "step"
) -> Phases:
    """Cosine decay to eta_min: eta_min + (lr - eta_min) (1 + cos πt/T_max) / 2.

    torch's CosineAnnealingLR; Loshchilov & Hutter 2016, arXiv:1608.03983. torch's rises again
    past T_max.
    """
    length = None if T_max is None else check_positive("T_max", T_max)
    floor = AbsoluteLevel(eta_min, "eta_min")
    decay = Phase(1.0, floor, shapes.cosine, length=length, name="T_max")
    return torch_phases(decay, interval=interval)


@schedule
def CosineAnnealingWarmRestarts(
    T_0: Duration = "25%",
    T_mult: Annotated[int, "> 0"] = 1,
    eta_min: NonNegative = 0.0,
    interval: Interval = "step",
) -> Phases:
    """Cosine decay with warm restarts; each cycle is T_mult times as long as the one before.

    torch's CosineAnnealingWarmRestarts; Loshchilov & Hutter 2016, arXiv:1608.03983.
    """
    decay = Phase(1.0, AbsoluteLevel(eta_min, "eta_min"), shapes.cosine, length=T_0, name="T_0")
    return torch_phases(Repeat((decay,), growth=T_mult), interval=interval)


@schedule
def CyclicLR(
    base_lr: NonNegative | None = None,
    max_lr: NonNegative | None = None,
    step_size_up: Duration = 2000,
    step_size_down: Duration | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Gamma = 1.0,
    cycle_momentum: bool = True,
    base_momentum: Momentum = 0.8,
    max_momentum: Momentum = 0.9,
    interval: Interval = "step",
) -> Phases:
    """Triangular cycles between base_lr and max_lr, while momentum does the opposite.

    torch's CyclicLR; Smith 2015, arXiv:1506.01186. By default max_lr is the optimizer's lr and
    base_lr a tenth of it. In an optimizer without momentum nothing else is set, where torch raises
    or turns momentum on.
    """
    peak: Level = 1.0 if max_lr is None else AbsoluteLevel(max_lr)
    base: Level = 0.1 if max_lr is None else AbsoluteLevel(max_lr / 10)
    base = base if base_lr is None else AbsoluteLevel(base_lr, "base_lr")
    hyperparameters = {}
    if cycle_momentum:
        high, low = AbsoluteLevel(max_momentum), AbsoluteLevel(base_momentum)
        cycles = triangle_cycles(high, low, step_size_up, step_size_down, mode, gamma)
        hyperparameters["momentum"] = (cycles,)
    cycles = triangle_cycles(base, peak, step_size_up, step_size_down, mode, gamma)
    return Phases(
        (cycles,),
        interval=interval,
        hyperparameters=hyperparameters,
        step_alignment="start",
        must_fit=False,
    )


@schedule
def OneCycleLR(
    max_lr: NonNegative | None = None,
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
    """Warmup from max_lr / div_factor, then decay to almost 0, while momentum does the opposite.

    torch's OneCycleLR; Smith & Topin 2017, arXiv:1708.07120. By default max_lr is the optimizer's
    lr. The last lr is max_lr / div_factor / final_div_factor. In an optimizer without momentum
    nothing else is set, where torch raises or turns momentum on.
    """
    shape = shapes.cosine if anneal_strategy == "cos" else shapes.linear

    def level(factor: float) -> Level:
        return factor if max_lr is None else AbsoluteLevel(max_lr * factor)

    def cycle(start: Level, peak: Level, back: Level, end: Level) -> tuple[Phase, ...]:
        up = Phase(start, peak, shape, length=RunFraction(pct_start), name="pct_start")
        if not three_phase:
            return up, Phase(peak, end, shape)
        down = Phase(
            peak, back, shape, length=RunFraction(pct_start, steps_less=1), name="pct_start"
        )
        return up, down, Phase(back, end, shape)

    start = 1 / div_factor
    hyperparameters = {}
    if cycle_momentum:
        high, low = AbsoluteLevel(max_momentum), AbsoluteLevel(base_momentum)
        hyperparameters["momentum"] = cycle(high, low, high, high)
    phases = cycle(level(start), level(1.0), level(start), level(start / final_div_factor))
    return Phases(phases, hyperparameters=hyperparameters, total=total_steps, step_alignment="both")


@schedule
def LambdaLR(
    lr_lambda: FormulaText = "lambda epoch: 0.999**epoch", interval: Interval = "step"
) -> FormulaSchedule:
    """Multiply the base lr by a formula or function of the step.

    torch's LambdaLR.
    """
    return FormulaSchedule(lr_lambda, "lr_lambda", interval=interval, step_alignment="start")


@schedule
def MultiplicativeLR(
    lr_lambda: FormulaText = "lambda epoch: 0.999", interval: Interval = "step"
) -> FormulaSchedule:
    """Multiply the previous lr by a formula or function of the step.

    torch's MultiplicativeLR.
    """
    return FormulaSchedule(
        lr_lambda, "lr_lambda", product=True, interval=interval, step_alignment="start"
    )


@schedule
def SequentialLR(
    schedulers: Sequence[Part] = SEQUENCE, milestones: Sequence[Duration] = ("50%",)
) -> Sequential:
    """Schedules in sequence, each starting at its milestone.

    torch's SequentialLR.
    """
    return Sequential(build_parts("schedulers", schedulers), tuple(milestones), "schedulers")


@schedule
def ChainedScheduler(schedulers: Sequence[Part] = CHAIN) -> Chained:
    """The product of several schedules.

    torch's ChainedScheduler. If a part has an absolute floor, torch's is a recursion, not a
    product.
    """
    return Chained(build_parts("schedulers", schedulers), "schedulers")


@schedule
def ReduceLROnPlateau(
    factor: Factor = 0.1,
    patience: Count = 10,
    threshold: NonNegative = 1e-4,
    threshold_mode: ThresholdMode = "rel",
    cooldown: Count = 0,
    min_lr: NonNegative = 0.0,
    eps: NonNegative = 1e-8,
    monitor: MetricName = None,
    mode: Mode | None = None,
) -> Plateau:
    """Multiply by factor when a metric stops improving.

    torch's ReduceLROnPlateau.
    """
    settings = plateau(
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        min_lr=min_lr,
        monitor=monitor,
        mode=mode,
    )
    return replace(settings, eps=eps)
