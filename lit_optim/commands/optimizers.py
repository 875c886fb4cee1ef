"""`lit-optim optimizers`: what `optimizer=` offers."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import Argument, Command, Section


def run(args: argparse.Namespace) -> None:
    """List all of them, those that match, or one in full."""
    from lit_optim.reports.listing import print_choices

    print_choices("optimizer", args.pattern)


COMMAND = Command(
    "optimizers",
    Section.CHOOSE,
    "list the optimizers, or show one in full",
    run,
    (Argument("pattern", "a name, a part of names, or '*adam*'", nargs="?", group="optimizer"),),
    """\
  lit-optim optimizers          one line each, with the source
  lit-optim optimizers 'ada*'   those whose name matches
  lit-optim optimizers muon     one in full: formula, source, arguments with their defaults""",
    works_anywhere=True,
)
