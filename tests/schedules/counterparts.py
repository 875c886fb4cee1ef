"""Which schedule of torch and transformers each of ours equals, and with which settings.

The schedules that bear their names stand in `counterparts_by_name`, those of papers alone in
`counterparts_of_papers`. A row has their scheduler for
an optimizer, a length T and a warmup W, and ours for the same. Where theirs is known to go wrong,
`differs` says how, and the two are compared up to there. A new schedule is asked for a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers.optimization as hf
from torch.optim import lr_scheduler as torchs

from lit_optim.schedules import combinators, formula_schedules, library
from lit_optim.schedules.core import Schedule

Theirs = Callable[[Any, int, int], Any]
Ours = Callable[[int, int], Schedule]


@dataclass(frozen=True)
class Row:
    """A schedule of this project and its counterpart.

    Args:
        theirs: builds the counterpart of (optimizer, T, W).
        ours: builds our schedule of (T, W).
        differs: how the counterpart differs, for the table in the documentation.
        first_group: compare only the first group, because theirs sets one lr for all groups.
        momentum: also compare momentum.
        past: updates to compare after the end.
        warmups: whether to compare several warmups; otherwise W is 0.
        shortest: the shortest run that theirs supports.
        multiple: the length of a run must be a multiple of this, because theirs does not round.
        leaves: the fewest updates that must be left after the warmup.
        formula: the formula of a paper, if no library has the schedule.
    """

    theirs: Theirs
    ours: Ours
    differs: str = ""
    first_group: bool = False
    momentum: bool = False
    past: int = 0
    warmups: bool = False
    shortest: int = 1
    multiple: int = 1
    leaves: int = 0
    formula: Callable[[int, int, int], float] | None = None


def wsd(o: Any, T: int, W: int, **more: Any) -> Any:
    return hf.get_wsd_schedule(o, W, (T - W) // 3, num_training_steps=T, **more)


def triangle(o: Any, T: int, W: int, **more: Any) -> Any:
    return torchs.CyclicLR(o, 0.002, 0.01, step_size_up=3, **more)


def one_cycle(o: Any, T: int, W: int, **more: Any) -> Any:
    return torchs.OneCycleLR(o, 0.01, total_steps=T, **more)


RISES_AGAIN = "past the end theirs rises again; ours stays at the floor"
ABSOLUTE = (
    "theirs converts the floor to a ratio of the first group's lr; ours is the floor of every group"
)
PULLED_UP = "theirs is 0/0 without a step to decay in; ours is the peak"

ROWS: dict[str, list[Row]] = {
    "constant": [
        Row(lambda o, T, W: hf.get_constant_schedule(o), lambda T, W: library.constant(), past=3),
    ],
    "constant_warmup": [
        Row(
            lambda o, T, W: hf.get_constant_schedule_with_warmup(o, W),
            lambda T, W: library.constant_warmup(warmup=W, step_alignment="start"),
            warmups=True,
            past=3,
        ),
    ],
    "linear": [
        Row(
            lambda o, T, W: hf.get_linear_schedule_with_warmup(o, 0, T),
            lambda T, W: library.linear(step_alignment="start"),
            past=3,
        ),
        Row(
            lambda o, T, W: torchs.LinearLR(o, 1.0, 0.25, total_iters=T),
            lambda T, W: library.linear(min_lr_ratio=0.25, step_alignment="start"),
            past=3,
        ),
    ],
    "linear_warmup": [
        Row(
            lambda o, T, W: hf.get_linear_schedule_with_warmup(o, W, T),
            lambda T, W: library.linear_warmup(warmup=W, step_alignment="start"),
            warmups=True,
            past=3,
        ),
    ],
    "cosine": [
        Row(
            lambda o, T, W: torchs.CosineAnnealingLR(o, T_max=T),
            lambda T, W: library.cosine(step_alignment="start"),
            differs=RISES_AGAIN,
        ),
    ],
    "cosine_warmup": [
        Row(
            lambda o, T, W: hf.get_cosine_schedule_with_warmup(o, W, T),
            lambda T, W: library.cosine_warmup(warmup=W, step_alignment="start"),
            differs=RISES_AGAIN,
            warmups=True,
        ),
    ],
    "cosine_min_lr": [
        Row(
            lambda o, T, W: hf.get_cosine_with_min_lr_schedule_with_warmup(
                o, W, T, min_lr_rate=0.1
            ),
            lambda T, W: library.cosine_min_lr(warmup=W, step_alignment="start"),
            differs=RISES_AGAIN,
            warmups=True,
        ),
        Row(
            lambda o, T, W: hf.get_cosine_with_min_lr_schedule_with_warmup(o, W, T, min_lr=0.003),
            lambda T, W: library.cosine_min_lr(warmup=W, min_lr=0.003, step_alignment="start"),
            differs=RISES_AGAIN + "; " + ABSOLUTE,
            first_group=True,
            warmups=True,
        ),
    ],
    "cosine_restarts": [
        Row(
            lambda o, T, W: hf.get_cosine_with_hard_restarts_schedule_with_warmup(
                o, W, T, num_cycles=3
            ),
            lambda T, W: library.cosine_restarts(cycles=3, warmup=W, step_alignment="start"),
            warmups=True,
            past=3,
        ),
    ],
    "polynomial": [
        Row(
            lambda o, T, W: hf.get_polynomial_decay_schedule_with_warmup(
                o, min(W, T - 1), T, lr_end=1e-3, power=2.0
            ),
            lambda T, W: library.polynomial(
                power=2.0, warmup=min(W, T - 1), min_lr=1e-3, step_alignment="start"
            ),
            differs=ABSOLUTE + "; " + PULLED_UP,
            first_group=True,
            warmups=True,
            past=3,
        ),
        Row(
            lambda o, T, W: torchs.PolynomialLR(o, total_iters=T, power=0.9),
            lambda T, W: library.polynomial(power=0.9, step_alignment="start"),
            past=3,
        ),
    ],
    "inverse_sqrt": [
        Row(
            lambda o, T, W: hf.get_inverse_sqrt_schedule(o, W),
            lambda T, W: library.inverse_sqrt(warmup=W, step_alignment="start"),
            warmups=True,
        ),
        Row(
            lambda o, T, W: hf.get_inverse_sqrt_schedule(o, W, timescale=40),
            lambda T, W: library.inverse_sqrt(warmup=W, timescale=40, step_alignment="start"),
            warmups=True,
        ),
    ],
    "wsd": [
        Row(
            lambda o, T, W, shape=shape: wsd(o, T, W, decay_type=shape),
            lambda T, W, shape=shape: library.wsd(
                warmup=W, cooldown=(T - W) // 3, shape=shape, step_alignment="start"
            ),
            warmups=True,
            shortest=4,
        )
        for shape in ("linear", "cosine", "1-sqrt")
    ],
    "step": [
        Row(
            lambda o, T, W: torchs.StepLR(o, step_size=3, gamma=0.5),
            lambda T, W, step_alignment=step_alignment: library.step(
                step_size=3, gamma=0.5, step_alignment=step_alignment
            ),
        )
        for step_alignment in ("end", "start")  # a jump acts at the same update under both
    ],
    "multistep": [
        Row(
            lambda o, T, W: torchs.MultiStepLR(o, [3, 7, 7], gamma=0.5),
            lambda T, W, step_alignment=step_alignment: library.multistep(
                [3, 7, 7], gamma=0.5, step_alignment=step_alignment
            ),
            shortest=7,
        )
        for step_alignment in ("end", "start")
    ],
    "exponential": [
        Row(
            lambda o, T, W: torchs.ExponentialLR(o, 0.97),
            lambda T, W: library.exponential(gamma=0.97, every=1, step_alignment="start"),
        ),
    ],
    "cyclic": [
        Row(
            lambda o, T, W, mode=mode: triangle(o, T, W, mode=mode, gamma=0.99),
            lambda T, W, mode=mode: library.cyclic(
                step_size_up=3,
                mode=mode,
                gamma=0.99,
                min_lr_ratio=0.2,
                momentum=(0.8, 0.9),
                step_alignment="start",
            ),
            differs="theirs sets the same lr in every group; ours keeps the ratios between groups",
            first_group=True,
            momentum=True,
        )
        for mode in ("triangular", "triangular2", "exp_range")
    ],
    "one_cycle": [
        Row(
            lambda o, T, W: one_cycle(o, T, W, pct_start=0.5),
            lambda T, W: library.one_cycle(warmup="50%", step_alignment="both"),
            differs="theirs sets the same lr in every group; ours keeps the ratios between groups",
            first_group=True,
            momentum=True,
            shortest=4,  # theirs divides by zero where the way up is one update
            multiple=2,
        ),
    ],
    "lambda": [
        Row(
            lambda o, T, W: torchs.LambdaLR(o, lambda t: 1 / (1 + t / 10)),
            lambda T, W: formula_schedules.lambda_(expr="1 / (1 + step / 10)"),
        ),
        Row(
            lambda o, T, W: hf.get_linear_schedule_with_warmup(o, 0, T),
            lambda T, W: formula_schedules.lambda_(expr="1 - progress", step_alignment="start"),
        ),
    ],
    "multiplicative": [
        Row(
            lambda o, T, W: torchs.MultiplicativeLR(o, lambda t: 1 - 1 / (t + 2)),
            lambda T, W: formula_schedules.multiplicative(expr="1 - 1 / (step + 2)"),
        ),
    ],
    "sequential": [
        Row(
            lambda o, T, W: torchs.SequentialLR(
                o,
                [torchs.ConstantLR(o, 0.1, total_iters=5), torchs.ExponentialLR(o, 0.9)],
                milestones=[3],
            ),
            lambda T, W: combinators.sequential(
                [
                    {"name": "ConstantLR", "factor": 0.1, "total_iters": 3},
                    {"name": "exponential", "gamma": 0.9, "every": 1, "step_alignment": "start"},
                ],
                milestones=[3],
            ),
            shortest=5,
        ),
    ],
    "chained": [
        Row(
            lambda o, T, W: torchs.ChainedScheduler(
                [torchs.ConstantLR(o, 0.1, total_iters=5), torchs.ExponentialLR(o, 0.9)]
            ),
            lambda T, W: combinators.chained(
                [
                    {"name": "ConstantLR", "factor": 0.1, "total_iters": 5},
                    {"name": "exponential", "gamma": 0.9, "every": 1, "step_alignment": "start"},
                ]
            ),
            shortest=5,
        ),
    ],
}
#: Compared with theirs over a sequence of metrics, in `test_followers`.
FOLLOWERS = {"plateau", "greedy", "reduce_lr_on_plateau", "ReduceLROnPlateau"}
