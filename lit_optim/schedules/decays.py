"""Decays that papers and records have tried: one short function each, as in `library`.

Raises (all of them): ValueError naming the argument, what was given and what is allowed.
"""

from __future__ import annotations

from typing import Annotated

from typing_extensions import Unpack

from lit_optim.errors import UsageError, show
from lit_optim.schedules import shapes
from lit_optim.schedules.durations import Duration, parse
from lit_optim.schedules.library import Counting, Positive, Share, checked, warm
from lit_optim.schedules.phase_spec import Free, InverseSqrt, Phase
from lit_optim.schedules.phases import Phases


@checked
def rex(warmup: Duration = 0, min_lr_ratio: Share = 0.0, **counting: Unpack[Counting]) -> Phases:
    """Down: min + (1 - min) (1 - x) / (1 - x / 2). Above the straight line, steep at the end.

    Chen, Wolfe & Kyrillidis 2021, REX: Revisiting Budgeted Training with an Improved Schedule,
    arXiv:2107.04197.
    """
    return Phases((warm(warmup), Phase(1.0, min_lr_ratio, shapes.rex)), **counting)


@checked
def noam(
    warmup: Duration = "5%",
    d_model: Annotated[int, "> 0"] | None = None,
    **counting: Unpack[Counting],
) -> Phases:
    """Warmup, then 1 / √t; with a `d_model` the factor is min(t^-0.5, t warmup^-1.5) / √d_model.

    Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762. Without a d_model the peak is
    the optimizer's lr; with one it is lr / √(d_model warmup), of a lr that is usually 1 or 2.
    """
    amount, unit = parse("warmup", warmup)
    peak = 1.0
    if d_model is not None:
        if unit != "step":
            raise UsageError(f"warmup must be in steps beside a d_model, got {show(warmup)}")
        peak = (d_model * max(1.0, amount)) ** -0.5
    rise = Phase(0.0, peak, length=warmup, name="warmup")
    scale: Duration = warmup if amount else 1
    return Phases((rise, Free(InverseSqrt(peak), scale, "warmup")), **counting)


@checked
def power_decay(
    beta: Annotated[float, "> 1"] = 1.5,
    warmup: Duration = 0,
    cooldown: Duration | None = None,
    min_lr_ratio: Share = 0.0,
    **counting: Unpack[Counting],
) -> Phases:
    """Down: min + (1 - min) (1 - x)^(2 beta - 1), over the whole run or in a cooldown.

    Li et al. 2026, Optimal Learning-Rate Schedules under Functional Scaling Laws: Power Decay and
    Warmup-Stable-Decay, arXiv:2602.06797. For tasks whose signal is learned slowly they find a
    cooldown after a stable lr best.
    """
    shape = shapes.polynomial(2 * beta - 1)
    stable = () if cooldown is None else (Phase(1.0, 1.0),)
    fall = Phase(1.0, min_lr_ratio, shape, length=cooldown, name="cooldown")
    return Phases((warm(warmup), *stable, fall), **counting)


@checked
def powercool(
    cooldown: Duration = "60%",
    power: Positive = 1.2,
    warmup: Duration = 0,
    min_lr_ratio: Share = 0.0,
    **counting: Unpack[Counting],
) -> Phases:
    """Stable, then a long cooldown: min + (1 - min) (1 - x)^power.

    The records of modded-nanogpt 2026, PowerCool, https://github.com/KellerJordan/modded-nanogpt.
    Those end before the floor is reached: `total` is longer than the run.
    """
    shape = shapes.polynomial(power)
    fall = Phase(1.0, min_lr_ratio, shape, length=cooldown, name="cooldown")
    return Phases((warm(warmup), Phase(1.0, 1.0), fall), **counting)


@checked
def cosine_inf(
    warmup: Duration = "5%",
    hold: Duration = "20%",
    min_lr_ratio: Share = 0.1,
    **counting: Unpack[Counting],
) -> Phases:
    """Warmup, then a cosine to a floor, which is held for the last part of the run.

    Semenov, Pagliardini & Jaggi 2025, Benchmarking Optimizers for Large Language Model Pretraining,
    arXiv:2509.01440. What is held may go on without an end, or into a cooldown.
    """
    floor = Phase(min_lr_ratio, min_lr_ratio, length=hold, name="hold")
    return Phases((warm(warmup), Phase(1.0, min_lr_ratio, shapes.cosine), floor), **counting)
