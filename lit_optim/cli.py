"""What the command `lit-optim` runs: it lists what can be chosen, without importing torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_optim import __version__
from lit_optim.config.help import keys
from lit_optim.config.listing import Entry, entries, matching
from lit_optim.errors import UsageError, suggest
from lit_optim.optimizers.needs import NEEDS

USAGE_ERROR = 2
#: The commands, and the group of conf/ that each lists.
GROUPS = {"optimizers": "optimizer", "schedules": "scheduler"}
DESCRIPTION = """\
what can be chosen in: python train.py optimizer=... scheduler=...

  lit-optim optimizers            a line for each, with its source
  lit-optim optimizers 'ada*'     those whose name fits, or has this in it
  lit-optim schedules linear      one in full: formula, source, arguments with their defaults
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Answer a command line, by default `sys.argv`. Ends with code 0, or 2 for a mistake."""
    try:
        _answer(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; nor shall Python try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UsageError as error:
        print(f"lit-optim: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see lit-optim --help")


def _answer(argv: Sequence[str]) -> None:
    words = [word for word in argv if not word.startswith("-")]
    if words and words[0] not in GROUPS:
        near = suggest(words[0], GROUPS) or f"; it is one of {', '.join(GROUPS)}"
        raise UsageError(f"unknown command {words[0]!r}{near}")
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return
    offered = entries(GROUPS[args.command])
    if args.pattern is None:
        _print_lines(offered)
        return
    found = matching(args.pattern, offered)
    if not found:
        near = suggest(args.pattern.strip("*?").lower(), [entry.name for entry in offered])
        near = near or f"; lit-optim {args.command} lists all {len(offered)}"
        raise UsageError(f"no {args.command.removesuffix('s')} fits {args.pattern!r}{near}")
    exact = [entry for entry in found if entry.name == args.pattern.lower()]
    if len(found) > 1 and not exact:
        _print_lines(found)
        return
    meant = (exact or found)[0]
    print(_in_full(meant))
    others = [entry.name for entry in found if entry != meant]
    if others:
        print(f"\nsee also: {', '.join(others)}")


def _parser() -> _Parser:
    parser = _Parser(
        "lit-optim",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lit-optim {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="command", help=f"{' or '.join(GROUPS)}; --help after it says more"
    )
    for command, group in GROUPS.items():
        listing = commands.add_parser(
            command, description=f"what can be chosen with {group}=", allow_abbrev=False
        )
        listing.add_argument(
            "pattern", nargs="?", help="a name, a part of names, or shell-style such as '*adam*'"
        )
    return parser


def _print_lines(found: list[Entry]) -> None:
    """In a terminal as wide as that; in a pipe a line each, whatever its length."""
    rows = [(entry.name, entry.headline, entry.cited) for entry in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = Console()
    if not console.is_terminal:
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        print("\n".join(lines))
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    fits = sum(widths) + 2 * len(widths) <= console.width
    for name, line, source in rows:
        cells = [Text(name, "bold"), Text(line), Text(source, "dim")]
        table.add_row(
            *(cells if fits else [cells[0], Text("\n" if source else "").join(cells[1:])])
        )
    console.print(table)


def _in_full(entry: Entry) -> str:
    """The docstring, which has the formula and the source, and what `--help` of train.py says."""
    parts = [
        f"python train.py {entry.path.parent.name}={entry.name}",
        entry.explained,
        _asked_by(entry),
        keys(entry.path),
    ]
    return "\n\n".join(part for part in parts if part)


def _asked_by(entry: Entry) -> str:
    """What an optimizer asks of a run, and where a search for its lr looks."""
    lines = [f"It {NEEDS[need]}." for need in NEEDS if need in entry.needs]
    if entry.lr_range is not None:
        lines.append("A search for its lr looks from {:g} to {:g}.".format(*entry.lr_range))
    return "\n".join(lines)
