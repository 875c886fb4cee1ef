"""The subcommands of `lit-optim`, one module each.

Every module here is a subcommand, found by its file: it declares `COMMAND`, an instance of
`lit_optim.command_line.command.Command`. `--help` and completion import all of them, so each
imports what is slow inside its functions.
"""

from __future__ import annotations

import os
from importlib import import_module

from lit_optim.command_line.command import Command, Section


def command_names() -> list[str]:
    """The names of all subcommands; nothing is imported."""
    files = os.listdir(os.path.dirname(__file__))
    modules = [name.removesuffix(".py") for name in files if name.endswith(".py")]
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def load_command(name: str) -> Command:
    """The declaration of one of `command_names()`."""
    command: Command = import_module(f"{__name__}.{name.replace('-', '_')}").COMMAND
    return command


def load_commands() -> list[Command]:
    """All declarations, in the order of `lit-optim --help`."""
    commands = [load_command(name) for name in command_names()]
    sections = [None, *Section]
    return sorted(commands, key=lambda command: (sections.index(command.section), command.name))
