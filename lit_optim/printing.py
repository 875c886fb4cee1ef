"""Prints results in a terminal of any width: no number is split, nothing is cut off."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lit_optim.errors import escape

GAP = "  "


class Console(RichConsole):
    """Prints to a stream, which alone decides what becomes of text that nobody reads.

    Rich would end the process: with the code of a failure, and in the middle of a training.
    """

    def on_broken_pipe(self) -> None:
        """Raise what rich has caught."""
        raise


@contextmanager
def stdout_console(width: int = 160) -> Iterator[Console]:
    """A console for stdout; if that is not a terminal, lines have no trailing blanks.

    Args:
        width: of tables, if stdout is not a terminal.
    """
    if sys.stdout.isatty():
        yield Console()
        return
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="")
    try:
        yield Console(width=width, file=file)
    finally:
        file.seek(0)
        for line in file:
            print(line.rstrip())  # rich fills the lines of a table with blanks


def available_width(console: Console) -> int:
    """The columns to fill; unlimited if the output is not a terminal."""
    return console.width if console.is_terminal else sys.maxsize


def natural_width(table: Table) -> int:
    """The columns that a table takes if nothing in it is wrapped."""
    wide = Console(width=10_000, height=100)
    return Measurement.get(wide, wide.options, table).maximum


def wrap_items(items: Iterable[tuple[str, str]], width: int, indent: str = "") -> list[str]:
    """Lines of items such as ("final val/loss", "0.61"), broken only between words and values.

    Args:
        items: a label and a value, either of which may be empty.
        width: of a line; only a single label or value that is longer exceeds it.
        indent: before each line.
    """
    lines: list[str] = []
    current = ""
    for label, value in items:
        whole = f"{label} {value}".strip()
        parts = [whole] if len(indent) + len(whole) <= width else [p for p in (label, value) if p]
        for part in parts:
            if current and len(current) + len(GAP) + len(part) <= width:
                current += GAP + part
                continue
            if current:
                lines.append(current)
            current = indent + part
    return [*lines, current] if current else lines


def print_pairs(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns; a value that does not fit gets its own line.

    Control characters are escaped.
    """
    rows = [(escape(name), escape(value)) for name, value in rows]
    width = available_width(console)
    column = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        if column + len(GAP) + len(value) <= width:
            line = Text.assemble((f"{name:<{column}}", "bold"), GAP, value)
        else:
            margin = GAP if len(GAP) + len(value) <= width else ""
            line = Text.assemble((name, "bold"), f"\n{margin}{value}")
        console.print(line, soft_wrap=True, highlight=False)


class WholeTable:
    """A table; if that is too wide, the same as text with a paragraph for each row.

    Args:
        header: of each column; a newline is a space in a paragraph.
        rows: the cells, as many as columns.
        keys: how many of the first columns identify a row; the others hold numbers.
        styles: of each row.

    Control characters are escaped, but for the newlines of the header.
    """

    def __init__(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        keys: int,
        styles: Sequence[str] = (),
    ) -> None:
        self.header = ["\n".join(map(escape, name.split("\n"))) for name in header]
        self.rows = [list(map(escape, row)) for row in rows]
        self.keys = keys
        self.styles = styles or [""] * len(rows)

    def table(self) -> Table:
        """As a table in which nothing is wrapped."""
        from rich import box

        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.header:
            drawn.add_column(Text(name), no_wrap=True)
        for row, style in zip(self.rows, self.styles, strict=True):
            drawn.add_row(*map(Text, row), style=style)
        return drawn

    def paragraphs(self, width: int) -> list[Text]:
        """As lines of at most this width, unless a single cell exceeds it."""
        lines = []
        names = [name.replace("\n", " ") for name in self.header]
        for row, style in zip(self.rows, self.styles, strict=True):
            cells = list(zip(names, row, strict=True))
            head = [("", f"{name}={value}") for name, value in cells[: self.keys]]
            wrapped = [*wrap_items(head, width), *wrap_items(cells[self.keys :], width, GAP)]
            lines += [Text(line, style) for line in wrapped]
        return lines

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        table = self.table()
        if natural_width(table) <= options.max_width:
            yield table
        else:
            yield from self.paragraphs(options.max_width)

    def print(self, console: Console) -> None:
        """Print it: in a pipe always as a table, in a terminal in the form that fits."""
        table = self.table()
        width = natural_width(table)
        if width <= console.width:
            console.print(table)
        elif console.is_terminal:
            for line in self.paragraphs(console.width):
                console.print(line, soft_wrap=True)
        else:
            # also a height: with TERM=dumb rich ignores a width alone
            Console(file=console.file, width=width, height=100).print(table)
