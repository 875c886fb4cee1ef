"""`lit-optim schedules`: what `scheduler=` offers."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import Argument, Command, Section


def run(args: argparse.Namespace) -> None:
    """List all of them, those that match, or one in full."""
    from lit_optim.reports.listing import print_choices

    print_choices("scheduler", args.pattern)


COMMAND = Command(
    "schedules",
    Section.CHOOSE,
    "list the learning-rate schedules, or show one in full",
    run,
    (Argument("pattern", "a name, a part of names, or '*cosine*'", nargs="?", group="scheduler"),),
    """\
  lit-optim schedules            one line each, with the source
  lit-optim schedules 'cosine*'  those whose name matches
  lit-optim schedules wsd        one in full: formula, source, arguments with their defaults""",
    works_anywhere=True,
)
