"""`lit-optim race`: the paths of optimizers over a landscape."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace

from lit_optim.command_line.command import (
    OVERRIDES,
    Argument,
    Command,
    Completion,
    Section,
    path,
    positive_int,
)
from lit_optim.programs import find_user_packages
from lit_optim.race.landscapes import LANDSCAPES, Point, describe_landscapes


def parse_point(text: str) -> Point:
    """A point of the plane: x,y."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise argparse.ArgumentTypeError(f"must be two numbers x,y, got {text}")
    return x, y


def run(args: argparse.Namespace) -> None:
    """Run the optimizers, print a table and draw a picture if asked to."""
    from lit_optim.race.lines import compose_entrants, split_landscapes

    find_user_packages()
    # a mistake is told before torch is imported
    compose_entrants(split_landscapes(args.overrides)[1], args.steps)

    from lit_optim.printing import Console
    from lit_optim.race.report import race

    console = Console(width=None if sys.stdout.isatty() else 160)
    race(args.overrides, console, args.steps, args.start, args.to)


COMMAND = Command(
    "race",
    Section.CHOOSE,
    "draw the paths of optimizers on test functions of two coordinates",
    run,
    (
        replace(OVERRIDES, extra_keys={"on": tuple(LANDSCAPES)}),
        Argument("--steps", "updates of each optimizer (300)", positive_int, 300),
        Argument("--start", "where every path begins, such as --start=-1.5,2", parse_point),
        Argument(
            "--to",
            "also draw the paths: .gif .png .svg",
            path,
            completion=Completion.PATHS,
        ),
    ),
    f"""\
  lit-optim race optimizer=sgd,momentum,adam on=rosenbrock --to race.gif
  lit-optim race optimizer=adamw,muon scheduler=cosine on=himmelblau,saddle
  lit-optim race optimizer=adam optimizer.lr=1e-2,1e-1,1

on= takes one or several landscapes:

{describe_landscapes()}

Each combination of values gets a path. Without optimizer.lr, each optimizer runs at the best lr of
a logarithmic grid for that landscape. Optimizers, schedules and wrappers are those used in
training; gradients are exact, without noise.""",
)
