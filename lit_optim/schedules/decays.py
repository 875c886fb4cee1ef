"""Decays from papers and speed records: each is one short function, as in `library`.

Raises (all of them): ValueError naming the argument, the value given and what is allowed.
"""

from __future__ import annotations

from typing import Annotated

from typing_extensions import Unpack

from lit_optim.errors import UsageError, show
from lit_optim.schedules import shapes
from lit_optim.schedules.arguments import CommonArguments, Fraction, Positive, warmup_phase
from lit_optim.schedules.durations import Duration, parse_duration
from lit_optim.schedules.phase_schedule import Phases
from lit_optim.schedules.phase_spec import FormulaSegment, InverseSqrt, Phase
from lit_optim.schedules.registry import schedule


@schedule
def rex(
    warmup: Duration = 0, min_lr_ratio: Fraction = 0.0, **common: Unpack[CommonArguments]
) -> Phases:
    """Slow decay that steepens toward the end: min + (1 - min) (1 - x) / (1 - x / 2).

    Chen, Wolfe & Kyrillidis 2021, REX: Revisiting Budgeted Training with an Improved Schedule,
    arXiv:2107.04197.
    """
    return Phases((warmup_phase(warmup), Phase(1.0, min_lr_ratio, shapes.rex)), **common)


@schedule
def noam(
    warmup: Duration = "5%",
    d_model: Annotated[int, "> 0"] | None = None,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Linear warmup, then decay by 1 / √t: the schedule of the original Transformer.

    Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762. Without a `d_model` the peak
    is the optimizer's lr. With one the factor is min(t^-0.5, t warmup^-1.5) / √d_model, so the
    peak is lr / √(d_model warmup), and lr is usually 1 or 2.
    """
    amount, unit = parse_duration("warmup", warmup)
    peak = 1.0
    if d_model is not None:
        if unit != "step":
            raise UsageError(f"with a d_model, warmup must be in steps, got {show(warmup)}")
        peak = (d_model * max(1.0, amount)) ** -0.5
    rise = Phase(0.0, peak, length=warmup, name="warmup")
    scale: Duration = warmup if amount else 1
    return Phases((rise, FormulaSegment(InverseSqrt(peak), scale, "warmup")), **common)


@schedule
def power_decay(
    beta: Annotated[float, "> 1"] = 1.5,
    warmup: Duration = 0,
    cooldown: Duration | None = None,
    min_lr_ratio: Fraction = 0.0,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Power-law decay, over the whole run or a cooldown: min + (1 - min) (1 - x)^(2 beta - 1).

    Li et al. 2026, Optimal Learning-Rate Schedules under Functional Scaling Laws: Power Decay and
    Warmup-Stable-Decay, arXiv:2602.06797. For tasks whose signal is learned slowly, they find that
    a cooldown after a constant lr is best.
    """
    shape = shapes.polynomial(2 * beta - 1)
    stable = () if cooldown is None else (Phase(1.0, 1.0),)
    decay = Phase(1.0, min_lr_ratio, shape, length=cooldown, name="cooldown")
    return Phases((warmup_phase(warmup), *stable, decay), **common)


@schedule
def powercool(
    cooldown: Duration = "60%",
    power: Positive = 1.2,
    warmup: Duration = 0,
    min_lr_ratio: Fraction = 0.0,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Constant lr, then a long cooldown: min + (1 - min) (1 - x)^power.

    The records of modded-nanogpt 2026, PowerCool, https://github.com/KellerJordan/modded-nanogpt.
    Those runs end before the floor is reached: `total` is longer than the run.
    """
    shape = shapes.polynomial(power)
    decay = Phase(1.0, min_lr_ratio, shape, length=cooldown, name="cooldown")
    return Phases((warmup_phase(warmup), Phase(1.0, 1.0), decay), **common)


@schedule
def cosine_inf(
    warmup: Duration = "5%",
    hold: Duration = "20%",
    min_lr_ratio: Fraction = 0.1,
    **common: Unpack[CommonArguments],
) -> Phases:
    """Linear warmup, cosine decay to a floor, then constant lr for the last part of the run.

    Semenov, Pagliardini & Jaggi 2025, Benchmarking Optimizers for Large Language Model Pretraining,
    arXiv:2509.01440. The constant part may be extended without end, or followed by a cooldown.
    """
    floor = Phase(min_lr_ratio, min_lr_ratio, length=hold, name="hold")
    decay = Phase(1.0, min_lr_ratio, shapes.cosine)
    return Phases((warmup_phase(warmup), decay, floor), **common)
