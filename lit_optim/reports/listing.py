"""Lists the choices of a group, each with a line and the source of its algorithm.

The lines are those of the YAML files; the sources are read from the docstrings of their `_target_`,
without importing it. The convention for a docstring:

- the first paragraph says what it does, in words or as a formula;
- the second one is the source, each work as "Authors year, Title, arXiv:1412.6980", several of them
  with a semicolon between, or the name of a counterpart ("torch's StepLR");
- where there is no second paragraph, the source is the last of several sentences.

Further paragraphs and indented formulas may follow, then `Args:` and the like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lit_optim.command_line.help import keys
from lit_optim.command_line.wrapping import terminal_width, wrap_lines
from lit_optim.config.places import headline, listed_choices, target_of
from lit_optim.errors import UsageError, suggest
from lit_optim.printing import Console
from lit_optim.programs import train_command
from lit_optim.requirements import REQUIREMENTS
from lit_optim.signatures import read_attribute, read_docstring
from lit_optim.untrusted import Unreadable

#: The commands that list choices, and the group of each.
LISTED_GROUPS = {"optimizers": "optimizer", "schedules": "scheduler"}
YEAR = re.compile(r".*?(?<![\d.:])(?:19|20)\d\d(?!\d|\.\d)\)?")
ARXIV = re.compile(r"(?:arXiv:)?\b(\d{4}\.\d{4,5})\b")
URL = re.compile(r"https?://\S+[\w/]")
SECTION = re.compile(r"[A-Z]\w*:\n")


@dataclass(frozen=True)
class Entry:
    """A choice of a group.

    Args:
        name: as on the command line.
        headline: what it does, one line for the user.
        target: the dotted name of its class or function.
        path: of its YAML file.
        explained: the docstring of the target up to `Args:`, or empty.
    """

    name: str
    headline: str
    target: str
    path: Path
    explained: str

    @property
    def requirements(self) -> tuple[str, ...]:
        """What an optimizer requires of a run; see `lit_optim.requirements`."""
        return tuple(read_attribute(self.target, "requirements") or ())

    @property
    def lr_range(self) -> tuple[float, float] | None:
        """The range in which to search for an optimizer's lr."""
        found: tuple[float, float] | None = read_attribute(self.target, "lr_range")
        return found

    @property
    def source(self) -> str:
        """The source in full, on one line; empty if the docstring has none."""
        first, *others = self.explained.split("\n\n")
        if others and not others[0].startswith(" "):
            found = others[0]
        else:
            found = "".join(re.split(r"(?<=\.)\s+(?=[A-Za-z])", first)[1:][-1:])
        return " ".join(found.split()).removesuffix(".")

    @property
    def cited(self) -> str:
        """The first work of the source without its title: "Kingma & Ba 2014, arXiv:1412.6980"."""
        first = self.source.split("; ")[0]
        year, paper, url = YEAR.match(first), ARXIV.search(first), URL.search(first)
        if year is None:
            return first.split(". ")[0]
        place = f"arXiv:{paper[1]}" if paper else url[0] if url else ""
        return f"{year[0]}, {place}" if place else year[0]


def entries(group: str) -> list[Entry]:
    """The choices of a group, by name."""
    return [_entry(name, path) for name, path in listed_choices(group).items()]


def matching(pattern: str, offered: list[Entry]) -> list[Entry]:
    """The choices whose name matches: shell-style with `*`, `?`, `[...]`, otherwise as a part."""
    asked = pattern.lower()
    if not set("*?[") & set(asked):
        asked = f"*{asked}*"
    return [entry for entry in offered if fnmatchcase(entry.name, asked)]


def _entry(name: str, path: Path) -> Entry:
    try:
        target = target_of(path)
    except Unreadable:  # its headline says why
        target = ""
    paragraphs = (read_docstring(target) or "").split("\n\n")
    explained = takewhile(lambda paragraph: not SECTION.match(paragraph), paragraphs)
    return Entry(name, headline(path), target, path, "\n\n".join(explained))


def print_choices(group: str, pattern: str | None) -> None:
    """Print a line for each choice of a group that matches; a single one in full.

    Args:
        group: `optimizer` or `scheduler`.
        pattern: a name, a part of names, or shell-style; None: all.

    Raises:
        UsageError: nothing matches.
    """
    [command] = [name for name, of in LISTED_GROUPS.items() if of == group]
    offered = entries(group)
    if pattern is None:
        _print_lines(offered)
        return
    found = matching(pattern, offered)
    if not found:
        near = suggest(pattern.strip("*?").lower(), [entry.name for entry in offered])
        near = near or f"; lit-optim {command} lists all {len(offered)}"
        raise UsageError(f"no {command.removesuffix('s')} matches {pattern!r}{near}")
    exact = [entry for entry in found if entry.name == pattern.lower()]
    if len(found) > 1 and not exact:
        _print_lines(found)
        return
    chosen = (exact or found)[0]
    print(wrap_lines(_describe(chosen), terminal_width()))
    similar = [entry.name for entry in found if entry != chosen]
    if similar:
        line = f"\nsee also: {', '.join(similar)}"
        print(wrap_lines(line, terminal_width()))


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


def _describe(entry: Entry) -> str:
    """The docstring, which has the formula and the source, and what `--help` of train.py prints."""
    parts = [
        f"use it with: {train_command()} {entry.path.parent.name}={entry.name}",
        entry.explained,
        _requirements(entry),
        keys(entry.path),
    ]
    return "\n\n".join(part for part in parts if part)


def _requirements(entry: Entry) -> str:
    """What an optimizer requires of a run, and the range in which to search for its lr."""
    lines = [f"It {text}." for name, text in REQUIREMENTS.items() if name in entry.requirements]
    if entry.lr_range is not None:
        lines.append("Search range for lr: {:g} to {:g}.".format(*entry.lr_range))
    return "\n".join(lines)
