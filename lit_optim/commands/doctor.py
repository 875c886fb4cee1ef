"""`lit-optim doctor`: check the installation."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import Command, Section


def run(args: argparse.Namespace) -> int:
    """Print a line for each check; the exit code is 1 if one failed."""
    from lit_optim.printing import stdout_console
    from lit_optim.reports.installation import doctor

    with stdout_console() as console:
        return doctor(console)


COMMAND = Command(
    "doctor",
    Section.SET_UP,
    "check the installation: versions, clashes, compiler, devices, write access",
    run,
)
