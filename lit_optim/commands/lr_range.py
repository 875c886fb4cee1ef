"""`lit-optim lr-range`: the lr range test."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import (
    OVERRIDES,
    Argument,
    Command,
    Section,
    positive_float,
    positive_int,
)
from lit_optim.programs import find_user_packages


def run(args: argparse.Namespace) -> None:
    """Train briefly and suggest an lr."""
    from lit_optim.command_line.combinations import compose_one

    find_user_packages()
    compose_one(args.overrides)  # a mistake is told before torch is imported

    from lit_optim.printing import Console
    from lit_optim.reports.lr_range import lr_range

    lr_range(args.overrides, Console(), args.steps, args.low, args.high)


COMMAND = Command(
    "lr-range",
    Section.CHECK,
    "find a learning rate: train briefly while the lr rises",
    run,
    (
        OVERRIDES,
        Argument("--steps", "updates (200)", positive_int, 200),
        Argument(
            "--from",
            "the first lr; by default a tenth of the optimizer's smallest usual lr",
            positive_float,
            attribute="low",
        ),
        Argument(
            "--to",
            "the last lr; by default ten times its largest usual lr",
            positive_float,
            attribute="high",
        ),
    ),
    """\
  lit-optim lr-range optimizer=adamw model=mlp
  lit-optim lr-range optimizer=sgd --steps 400 --from 1e-4 --to 10

Parameter groups keep their ratios. Writes lr_range.png and lr_range.csv into a new directory below
runs/, and nothing else.""",
)
