"""What a subcommand of `lit-optim` declares: its name, its help and its arguments."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from lit_optim.command_line.wrapping import terminal_width, wrap_lines
from lit_optim.errors import UsageError
from lit_optim.system import find_excess

MAX_DIGITS = 18  # of a number of updates


class Section(Enum):
    """The sections of `lit-optim --help`, in their order."""

    TRAIN = "train"
    CHOOSE = "choose an optimizer and a schedule"
    CHECK = "check a run before starting it"
    LOOK = "look at runs, and repeat them"
    SET_UP = "set up"


class Completion(Enum):
    """What the tab key offers for an argument, besides its `choices`."""

    NOTHING = "nothing"
    PATHS = "paths"
    OVERRIDES = "overrides"


@dataclass(frozen=True)
class Argument:
    """An argument of a subcommand.

    Args:
        name: `directory` for a positional argument, `--to` for an option.
        help: one line.
        parse: makes the value of the text; raises `argparse.ArgumentTypeError`.
        default: the value if it is not given.
        nargs: as in argparse: None for exactly one value, `?` or `*`.
        choices: the allowed words.
        is_flag: whether it is an option without a value.
        attribute: the name in the namespace that `run` gets, if it differs from `name`.
        completion: what the tab key offers.
        group: the configuration group whose choices the tab key offers.
        extra_keys: keys that the tab key offers besides those of a run, with their values.
    """

    name: str
    help: str
    parse: Callable[[str], Any] = str
    default: Any = None
    nargs: str | None = None
    choices: Sequence[str] = ()
    is_flag: bool = False
    attribute: str | None = None
    completion: Completion = Completion.NOTHING
    group: str | None = None
    extra_keys: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def is_option(self) -> bool:
        """Whether it is given by name."""
        return self.name.startswith("-")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare it to argparse."""
        settings: dict[str, Any] = {"help": self.help, "default": self.default}
        if self.attribute is not None:
            settings["dest"] = self.attribute
        if self.is_flag:
            settings |= {"action": "store_true", "default": False}
        else:
            settings |= {"type": self.parse, "nargs": self.nargs}
            settings |= {"choices": self.choices} if self.choices else {}
        parser.add_argument(self.name, **settings)


@dataclass(frozen=True)
class Command:
    """A subcommand of `lit-optim`; each module of `lit_optim.commands` declares one as `COMMAND`.

    Args:
        name: as typed; that of the module with `-` in place of `_`.
        section: where `lit-optim --help` lists it; None: it is not listed.
        help: one line, for `lit-optim --help`.
        run: does it. Gets the parsed arguments, and returns the exit code; None means 0. What is
            slow to import is imported inside.
        arguments: what it takes.
        description: more lines, for `lit-optim NAME --help`, such as examples.
        is_raw: whether it parses its arguments itself; they arrive as the list `args.argv`.
        works_anywhere: whether it works where the current directory has been removed.
    """

    name: str
    section: Section | None
    help: str
    run: Callable[[argparse.Namespace], int | None]
    arguments: Sequence[Argument] = ()
    description: str = ""
    is_raw: bool = False
    works_anywhere: bool = False

    def parser(self) -> argparse.ArgumentParser:
        """The parser of its arguments."""
        text = "\n\n".join(filter(None, (self.help, self.description)))
        parser = _Parser(
            f"lit-optim {self.name}",
            description=wrap_lines(text, terminal_width()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        parser.add_argument("-h", "--help", action="help", help="print this help")
        for argument in self.arguments:
            argument.add_to(parser)
        return parser

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse what was typed after the name.

        Raises:
            UsageError: a mistake in it.
            SystemExit: it asked for help, which has been printed.
        """
        if self.is_raw:
            return argparse.Namespace(argv=list(argv))
        # options may stand between overrides
        return self.parser().parse_intermixed_args(argv)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


#: For commands that take what `lit-optim train` takes.
OVERRIDES = Argument(
    "overrides",
    "key=value as for lit-optim train, such as scheduler=wsd",
    nargs="*",
    completion=Completion.OVERRIDES,
)


def path(text: str) -> Path:
    """A path; a shell expands `~` only where it is not quoted."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got nothing")
    if excess := find_excess(text):
        raise argparse.ArgumentTypeError(f"{text}: {excess}")
    return Path(os.path.expanduser(text))


#: For commands that compare runs.
RUN_DIRECTORIES = Argument(
    "directory",
    "directory of a run or sweep, or a parent directory",
    path,
    nargs="+",
    completion=Completion.PATHS,
)


def port(text: str) -> int:
    """A port number."""
    if not (text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"must be in [1, 65535], got {text}")
    return int(text)


def positive_int(text: str) -> int:
    """A number of updates."""
    if not text.isdecimal() or len(text) > MAX_DIGITS or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number > 0, got {text}")
    return int(text)


def positive_float(text: str) -> float:
    """A learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text}")
    return value
