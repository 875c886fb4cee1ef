"""`lit-optim doctor`: check the installation."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import Command, Section


def run(args: argparse.Namespace) -> int:
    """Print a line for each check; the exit code is 1 if one failed."""
    from rich.console import Console

    from lit_optim.reports.installation import doctor

    return doctor(Console())


COMMAND = Command(
    "doctor",
    Section.SET_UP,
    "check the installation: versions, clashes, compiler, devices, write access",
    run,
)
