"""Wraps help texts to the width of the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap

#: The part of a line below which its continuation begins: a name and blanks, or a bullet.
MARGIN = re.compile(r" *(?:- | {2,}|(?<= )\S+ +)?")
#: An example with its explanation beside it.
EXAMPLE = re.compile(r"( +)(\S+ \S.*?) {2,}(\S.*)")


def terminal_width() -> int | None:
    """The columns of the terminal; None if stdout is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrap_lines(text: str, columns: int | None, indent: int | None = None) -> str:
    """Break the lines that are wider than the terminal.

    Args:
        text: any number of lines; short ones are not changed.
        columns: the width of the terminal; None: no line is broken.
        indent: of the rest of a line; None: that of its second word, if the line is indented.
    """
    if columns is None:
        return text
    return "\n".join(_wrap_line(line, columns, indent) for line in text.split("\n"))


def _wrap_line(line: str, columns: int, indent: int | None) -> str:
    if len(line) <= columns:
        return line
    if indent is None and (example := EXAMPLE.fullmatch(line)):
        margin, command, meaning = example.groups()
        parts = (f"{margin}{command}", f"{margin}    {meaning}")
        return "\n".join(_wrap_line(part, columns, len(margin) + 4) for part in parts)
    if indent is None:
        match = MARGIN.match(line)
        indent = match.end() if match else 0
        if line.startswith("#"):
            return textwrap.fill(line, columns, subsequent_indent="# ", break_on_hyphens=False)
        indent = indent or 4 * (" # " in line)  # a key with its comment
    blanks = " " * (indent if 2 * indent <= columns else 4)
    return textwrap.fill(
        line,
        columns,
        subsequent_indent=blanks,
        break_on_hyphens=False,
        break_long_words=False,
        replace_whitespace=False,
    )
