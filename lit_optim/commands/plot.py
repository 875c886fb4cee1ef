"""`lit-optim plot`: lr curves, drawn by the code that trains."""

from __future__ import annotations

import argparse
import shutil

from lit_optim.command_line.command import (
    OVERRIDES,
    Argument,
    Command,
    Completion,
    Section,
    path,
    positive_int,
)


def run(args: argparse.Namespace) -> None:
    """Draw the curves in the terminal, and where asked into a file."""
    from lit_optim.reports import lr_plot
    from lit_optim.reports.lr_plan import plan_lr

    if args.to is not None:
        lr_plot.check_ending(args.to)
    plans = plan_lr(args.overrides, args.steps_per_epoch)
    print(lr_plot.draw_in_terminal(plans, shutil.get_terminal_size().columns))
    if args.to is not None:
        lr_plot.write_file(plans, args.to)


COMMAND = Command(
    "plot",
    Section.CHOOSE,
    "plot lr curves with the code used in training",
    run,
    (
        OVERRIDES,
        Argument(
            "--to",
            "also write a picture or a table: .png .svg .csv",
            path,
            completion=Completion.PATHS,
        ),
        Argument("--steps-per-epoch", "updates per epoch, if a length is in epochs", positive_int),
    ),
    """\
  lit-optim plot scheduler=wsd,one_cycle scheduler.warmup=10% trainer.max_steps=1000
  lit-optim plot scheduler=wsd scheduler.shape=linear,1-sqrt --to wsd.png

Each value in a list gets a curve. Below it are the updates at which a phase begins or ends, with
their lr. Updates count from 0, as in explain and in TensorBoard.""",
)
