"""Schedules that no library implements correctly, with the formulas of their papers.

A formula is a function of (t, T, W), t = 0, 1, ..., which torch's LambdaLR applies to the lr.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import cos, pi, sqrt
from typing import Any

import transformers.optimization as hf
from torch.optim import lr_scheduler as torchs

from lit_optim.schedules import decays, library, phase_parser
from tests.schedules.counterparts import Ours, Row, wsd

Formula = Callable[[int, int, int], float]


def paper(formula: Formula, ours: Ours, **more: Any) -> Row:
    """A row whose counterpart is a formula."""
    return Row(
        lambda o, T, W: torchs.LambdaLR(o, lambda t: formula(t, T, W)),
        ours,
        formula=formula,
        **more,
    )


def rex(t: int, T: int, W: int) -> float:
    """(1 - p) / (1/2 + (1 - p) / 2)."""
    return t / W if t < W else (1 - (t - W) / (T - W)) / (0.5 + (1 - (t - W) / (T - W)) / 2)


def noam(t: int, T: int, W: int) -> float:
    """d_model^-0.5 min(step^-0.5, step warmup^-1.5), step = t + 1."""
    return 512**-0.5 * min((t + 1) ** -0.5, (t + 1) * max(1, W) ** -1.5)


def power_decay(t: int, T: int, W: int) -> float:
    """(1 - p)^(2 beta - 1), beta = 1.7."""
    return t / W if t < W else (1 - (t - W) / (T - W)) ** 2.4


def power_cooldown(t: int, T: int, W: int) -> float:
    """(1 - p)^(2 beta - 1), beta = 1.7, in the last D = (T - W) // 3 updates."""
    D = (T - W) // 3
    return t / W if t < W else 1.0 if t < T - D else (1 - (t - T + D) / D) ** 2.4


def powercool(t: int, T: int, W: int) -> float:
    """min(1, ((Te - t) / (c Te))^power) of an endpoint Te = T + 20, c = 0.5, power = 1.2."""
    return min(1.0, (T + 20 - t) / (0.5 * (T + 20))) ** 1.2


def cosine_inf(t: int, T: int, W: int) -> float:
    """A cosine to 0.1, held in the last (T - W) // 3 updates."""
    end = T - (T - W) // 3
    if t < W:
        return t / W
    return 0.1 if t >= end else 0.1 + 0.9 * (1 + cos(pi * (t - W) / (end - W))) / 2


def cooled(told: str, left: Callable[[float], float]) -> Formula:
    """Hägele et al.'s wsd with D = (T - W) // 3: what is left at q = 0 ... 1 of the cooldown."""

    def formula(t: int, T: int, W: int) -> float:
        D = (T - W) // 3
        return t / W if t < W else 1.0 if t < T - D else left((t - T + D) / D)

    formula.__doc__ = f"{told} at q of the cooldown."
    return formula


def to_a_tenth(told: str, left: Callable[[float], float]) -> Formula:
    """The same with what is left above a floor of 0.1."""
    return cooled(f"0.1 + 0.9 ({told})", lambda q: 0.1 + 0.9 * left(q))


#: Cooldowns by their authors' formulas: those of Hägele et al., then those of timm, then others.
COOLDOWNS: dict[str, Formula] = {
    "linear": to_a_tenth("1 - q", lambda q: 1 - q),
    "cosine": to_a_tenth("(1 + cos πq) / 2", lambda q: (1 + cos(pi * q)) / 2),
    "mirror_cosine": to_a_tenth(
        "2 (1 - q) - (1 + cos πq) / 2", lambda q: 2 * (1 - q) - (1 + cos(pi * q)) / 2
    ),
    "square": to_a_tenth("1 - q²", lambda q: 1 - q**2),
    "sqrt": to_a_tenth("1 - √q", lambda q: 1 - sqrt(q)),
    "1-sqrt": to_a_tenth("1 - √q", lambda q: 1 - sqrt(q)),
    "exponential": cooled("0.1^q", lambda q: 0.1**q),
    "power(1.7)": to_a_tenth("1 - q^1.7", lambda q: 1 - q**1.7),
    "exponential(0.02)": to_a_tenth(
        "(0.02^q - 0.02) / 0.98", lambda q: (0.02**q - 0.02) / (1 - 0.02)
    ),
    "polynomial(1.7)": to_a_tenth("(1 - q)^1.7", lambda q: (1 - q) ** 1.7),
    "rex": to_a_tenth("(1 - q) / (1 - q / 2)", lambda q: (1 - q) / (1 - q / 2)),
    "mirror_sqrt": to_a_tenth("√(1 - q)", lambda q: sqrt(1 - q)),
    "inverse_sqrt": cooled("1 / √(1 + 99 q)", lambda q: 1 / sqrt(1 + 99 * q)),
    "staircase(3)": to_a_tenth(
        "1, 1/2, 0 in thirds", lambda q: (1, 0.5, 0)[min(2, int(3 * q + 1e-9))]
    ),
}


def restarts(t: int, T: int, W: int) -> float:
    """Cosines of lengths 1, 2 and 4 parts of T, of heights 1, 0.7 and 0.49 over a floor of 0.1."""
    part = T / 7
    for k in range(3):
        begin, length = (2**k - 1) * part, 2**k * part
        if t < begin + length - 1e-9:
            return 0.1 + 0.9 * 0.7**k * (1 + cos(pi * (t - begin) / length)) / 2
    return 0.1


def three_phases(t: int, T: int, W: int) -> float:
    """Cosines between (0, 1/25), (T/4, 1), (T/2, 1/25) and (T, 4e-6)."""
    marks = [(0, 1 / 25), (T / 4, 1.0), (T / 2, 1 / 25), (T, 4e-6)]
    for (begin, start), (end, stop) in pairwise(marks):
        if t < end:
            return stop + (start - stop) * (1 + cos(pi * (t - begin) / (end - begin))) / 2
    return 4e-6


def big_vision(t: int, T: int, W: int) -> float:
    """A warmup of 3, then 1 / √(1 + s / 5), and a straight line to 0 in the last 4 updates."""
    if t < 3:
        return t / 3
    return (1 + (min(t, T - 4) - 3) / 5) ** -0.5 * min(1, max(0, T - t) / 4)


def stairs(t: int, T: int, W: int) -> float:
    """1, 0.1 and 0.01, each for a third."""
    return 0.1 ** min(2, 3 * t // T)


PAPERS: dict[str, list[Row]] = {
    "rex": [
        paper(
            rex, lambda T, W: decays.rex(warmup=W, step_alignment="start"), warmups=True, leaves=1
        ),
    ],
    "noam": [
        paper(noam, lambda T, W: decays.noam(warmup=max(1, W), d_model=512), warmups=True),
    ],
    "power_decay": [
        paper(
            power_decay,
            lambda T, W: decays.power_decay(beta=1.7, warmup=W, step_alignment="start"),
            warmups=True,
            leaves=1,
        ),
        paper(
            power_cooldown,
            lambda T, W: decays.power_decay(
                beta=1.7, warmup=W, cooldown=(T - W) // 3, step_alignment="start"
            ),
            warmups=True,
            leaves=3,
        ),
    ],
    "powercool": [
        paper(
            powercool,
            lambda T, W: decays.powercool(
                cooldown=(T + 20) // 2, total=T + 20, step_alignment="start"
            ),
            multiple=2,
        ),
    ],
    "cosine_inf": [
        paper(
            cosine_inf,
            lambda T, W: decays.cosine_inf(warmup=W, hold=(T - W) // 3, step_alignment="start"),
            warmups=True,
            past=3,
        ),
    ],
    "wsd": [
        paper(
            formula,
            lambda T, W, shape=shape: library.wsd(
                warmup=W,
                cooldown=(T - W) // 3,
                shape=shape,
                min_lr_ratio=0.1,
                step_alignment="start",
            ),
            warmups=True,
            leaves=3,
        )
        for shape, formula in COOLDOWNS.items()
    ],
    "cosine_restarts": [
        paper(
            restarts,
            lambda T, W: library.cosine_restarts(
                cycles=3, growth=2.0, decay=0.7, warmup=0, min_lr_ratio=0.1, step_alignment="start"
            ),
            past=3,
        ),
        Row(
            lambda o, T, W: torchs.CosineAnnealingWarmRestarts(o, T_0=T // 7, T_mult=2),
            lambda T, W: library.cosine_restarts(
                cycles=3, growth=2, warmup=0, step_alignment="start"
            ),
            multiple=7,
        ),
    ],
    "one_cycle": [
        paper(
            three_phases,
            lambda T, W: library.one_cycle(warmup=T // 4, three_phase=True, step_alignment="start"),
            differs="each of torch's phases ends one update earlier, as in OneCycleLR here",
            past=3,
            multiple=4,
        ),
    ],
    "phases": [
        Row(
            lambda o, T, W: wsd(o, T, 2, decay_type="1-sqrt"),
            lambda T, W: phase_parser.phases(
                [
                    {"shape": "linear", "from": 0, "to": 1, "for": 2},
                    {"shape": "constant"},
                    {"shape": "1-sqrt", "to": 0, "for": (T - 2) // 3},
                ],
                step_alignment="start",
            ),
            shortest=7,
            past=3,
        ),
        Row(
            lambda o, T, W: hf.get_polynomial_decay_schedule_with_warmup(
                o, 0, T, lr_end=0.001, power=3.0
            ),
            lambda T, W: phase_parser.phases(
                [{"shape": "polynomial(3)", "to": 0.1}], step_alignment="start"
            ),
            first_group=True,
            past=3,
        ),
        Row(
            lambda o, T, W: torchs.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
            lambda T, W: phase_parser.phases(
                [{"repeat": [{"shape": "cosine", "to": 0, "for": 3}], "growth": 2}],
                step_alignment="start",
            ),
        ),
        Row(
            lambda o, T, W: torchs.StepLR(o, step_size=max(1, T // 5), gamma=0.5),
            lambda T, W: phase_parser.phases(
                [{"repeat": [{"shape": "constant", "for": max(1, T // 5)}], "decay": 0.5}]
            ),
        ),
        paper(
            restarts,
            lambda T, W: phase_parser.phases(
                [
                    {
                        "repeat": [{"shape": "cosine", "to": 0.1}],
                        "times": 3,
                        "growth": 2,
                        "decay": 0.7,
                        "floor": 0.1,
                    }
                ],
                step_alignment="start",
            ),
            past=3,
        ),
        paper(
            big_vision,
            lambda T, W: phase_parser.phases(
                [
                    {"shape": "linear", "from": 0, "to": 1, "for": 3},
                    {"shape": "inverse_sqrt", "timescale": 5},
                    {"shape": "linear", "to": 0, "for": 4},
                ],
                step_alignment="start",
            ),
            past=3,
            shortest=7,
        ),
        paper(
            stairs,
            lambda T, W: phase_parser.phases([{"shape": "exponential", "to": 0.01, "levels": 3}]),
            multiple=2,
            shortest=3,
        ),
    ],
}
