"""The command `lit-optim`: finds the subcommand in `lit_optim.commands` and runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_optim import __version__
from lit_optim.command_line.command import Section
from lit_optim.command_line.wrapping import terminal_width, wrap_lines
from lit_optim.commands import command_names, load_command, load_commands
from lit_optim.config.places import split_conf_dir, use_conf_dir
from lit_optim.environment import forget_ranks
from lit_optim.errors import UsageError, first_line, printable, suggest
from lit_optim.interrupts import exit_on_interrupt
from lit_optim.programs import current_directory
from lit_optim.streams import allow_any_text, print_without_fail, tell
from lit_optim.threads import prepare_threads

USAGE_ERROR = 2
USAGE = """\
usage: lit-optim COMMAND ...

Optimizers and learning-rate schedules for PyTorch Lightning, chosen by name.

  lit-optim train optimizer=muon scheduler=wsd
  lit-optim COMMAND --help
"""
OPTIONS = """\
options
  --config-dir DIR  add choices of your own, such as DIR/optimizer/mine.yaml, to any command
  --version         print the version
  -h, --help        print this help"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line, by default `sys.argv`.

    Raises:
        SystemExit: the exit code is not 0: 2 for a mistake, or what the subcommand returns.
    """
    exit_on_interrupt()
    forget_ranks()
    allow_any_text()
    print_without_fail("stderr")  # that nobody reads stdout ends a command that prints
    prepare_threads()
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; nor shall Python try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except Exception as error:
        if (line := _explain(error, argv)) is None:
            raise
        tell(line)
        sys.exit(USAGE_ERROR)
    if code:
        sys.exit(code)


def _explain(error: Exception, argv: Sequence[str]) -> str | None:
    """What is wrong, where a line is enough: a mistake, or a file that the command line names."""
    if not isinstance(error, OSError):
        return first_line(error) if _is_mistake(error) else None
    named = {word for one in argv for word in (one, one.partition("=")[2])}
    name = str(error.filename or "")
    if not name or named.isdisjoint(map(str, (name, *Path(name).parents))):
        return None
    return printable(f"{name}: {error.strerror or first_line(error)}")


def _is_mistake(error: Exception) -> bool:
    """Whether one line is enough: a mistake found here, or a setting that Lightning refuses."""
    if isinstance(error, UsageError):
        return True
    if "lightning" not in sys.modules:  # which takes a second to import
        return False
    from lit_optim.runs.failures import is_lightnings_complaint

    return is_lightnings_complaint(error)


def _dispatch(argv: Sequence[str]) -> int | None:
    """Run the subcommand that is named first; return the exit code."""
    directory, argv = split_conf_dir(argv)
    use_conf_dir(directory)
    name = next((word for word in argv if not word.startswith("-")), None)
    if name is None:
        unknown = [word for word in argv if word not in ("-h", "--help", "--version")]
        if unknown:
            raise UsageError(f"unrecognized arguments: {' '.join(unknown)}; see lit-optim --help")
        is_version = "--version" in argv
        print(f"lit-optim {__version__}" if is_version else help_text(terminal_width()))
        return None
    if name not in command_names():
        known = [command.name for command in load_commands() if command.section is not None]
        near = suggest(name, known) or f"; it is one of {', '.join(known)}"
        raise UsageError(f"unknown command {name!r}{near}")
    rest = list(argv)
    rest.remove(name)
    command = load_command(name)
    args = command.parse(rest)
    if not command.works_anywhere:
        current_directory()
    return command.run(args)


def help_text(columns: int | None = None) -> str:
    """The subcommands by section.

    Args:
        columns: the width of the terminal; None: one line each, whatever its length.
    """
    commands = load_commands()
    width = max(len(command.name) for command in commands)
    parts = [wrap_lines(USAGE, columns)]
    for section in Section:
        lines = [
            f"  {command.name:<{width}}  {command.help}"
            for command in commands
            if command.section is section
        ]
        parts.append(wrap_lines("\n".join([section.value, *lines, ""]), columns, width + 4))
    return "\n".join([*parts, wrap_lines(OPTIONS, columns, 20)])
