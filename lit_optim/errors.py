"""Floor 0: the errors whose message is the whole answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile

ALIKE = 0.6  # a typo leaves more than this of a name
LONGEST = 300  # characters of a message
GAP = " ... "
TIE = 0.1  # names that are so much less alike than the nearest are not what was meant


class UsageError(ValueError):
    """What was asked for cannot be done; the message says in one line what is wrong.

    The command line prints that line and ends with code 2; a traceback would add nothing.
    """


class TrainingFailed(Exception):
    """Training cannot go on; the message says in one line why, and the process ends with code 1."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line that is safe to print; where it says nothing, its kind.

    Our own messages are one line, so a line break in one belongs to a value and is escaped. Of
    other errors, which may explain themselves at length, the first line is enough.
    """
    text = str(error).strip() or type(error).__name__
    if isinstance(error, UsageError | TrainingFailed):
        return printable(text)
    first, *others = text.splitlines()
    return printable(f"{first} {others[0].strip()}" if first.endswith(":") and others else first)


def escape(text: str) -> str:
    """The whole text with control characters escaped.

    A terminal obeys control characters, and text that was typed or read from a file may hold any.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str, most: int = LONGEST) -> str:
    """The text with control characters escaped, and its middle left out where it is too long.

    For messages; what has to stay whole, such as a path or a command to copy, is for `escape`.
    """
    escaped = escape(text)
    if len(escaped) <= most:
        return escaped
    kept = most - len(GAP)
    return escaped[: kept - kept // 2] + GAP + escaped[len(escaped) - kept // 2 :]


def show(value: object, most: int = LONGEST // 2) -> str:
    """A value as Python writes it, for a message: short, and whatever it is, without an error.

    Python writes no whole number of more than 4,300 digits, and a value may contain itself.
    """
    try:
        text = repr(value)
    except Exception:  # its own __repr__, or that of what is in it
        text = "a number of thousands of digits" if isinstance(value, int) else type(value).__name__
    return printable(text, most)


def suggest(given: str, known: Iterable[str]) -> str:
    """The end of a message: the nearest of the known names as a question, or nothing."""
    folded = given.casefold()

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(a=folded, b=name.casefold()).ratio()

    def same_start(name: str) -> int:
        pairs = zip(folded, name.casefold(), strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    names = list(known)
    near = [name for name in names if likeness(name) >= ALIKE]
    near.sort(key=lambda name: (-likeness(name), -same_start(name)))
    close = [name for name in near if likeness(name) > likeness(near[0]) - TIE][:3]
    if near and near[0].casefold() == folded:  # only capitals differ
        close = near[:1]
    begun = [name for name in names if len(given) > 2 and name.casefold().startswith(folded)]
    close = close or begun[:3]
    return f"; did you mean {' or '.join(close)}?" if close else ""
