"""`lit-optim explain`: what a run would do."""

from __future__ import annotations

import argparse
import io
import os
import sys

from lit_optim.command_line.command import OVERRIDES, Command, Section


def run(args: argparse.Namespace) -> None:
    """Print what the run would do."""
    from rich.console import Console

    from lit_optim.reports.explanation import explain

    sys.path.append(os.getcwd())  # where the user's own packages are
    if sys.stdout.isatty():
        explain(args.overrides, Console())
        return
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="")
    try:
        explain(args.overrides, Console(width=160, file=file))
    finally:
        file.seek(0)
        for line in file:
            print(line.rstrip())  # rich fills the lines of a table with blanks


COMMAND = Command(
    "explain",
    Section.CHECK,
    "show what a run would do, and what looks like a mistake",
    run,
    (OVERRIDES,),
    """\
  lit-optim explain optimizer=muon scheduler=wsd trainer.max_epochs=10

Shows the length of the run and where it comes from, the schedule, the parameter groups and the
size of the optimizer's state. Nothing is trained or written.""",
)
