"""Errors whose message is all that the user needs, and how values are shown in messages."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable
from functools import partial
from itertools import takewhile

ALIKE = 0.6  # a typo is at least this similar to the name
LONGEST = 300  # characters of a message
GAP = " ... "
TIE = 0.1  # names that are less similar than the nearest by this much are not suggested


class UsageError(ValueError):
    """A mistake in what was typed or called; the message says in one line what is wrong.

    The command line prints that line and ends with code 2; a traceback would add nothing.
    """


class TrainingFailed(Exception):
    """Training cannot continue; the message says why in one line. The exit code is 1."""


class Diverged(TrainingFailed):
    """The loss or its gradient is no longer finite: a result of the run's settings, no failure.

    In a sweep such a run counts as completed.
    """

    #: The worst finite value known of the monitored metric; set where a run ends.
    value: float = math.nan


def first_line(error: BaseException) -> str:
    """The message of an error, in one line that is safe to print; its class if it has none.

    Our own messages are one line, so a line break in one belongs to a value and is escaped. Of
    other errors, which may have long explanations, the first line is enough.
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
    """The text with control characters escaped, and its middle left out if it is too long.

    For messages. Use `escape` for what must stay complete, such as a path or a command to copy.
    """
    escaped = escape(text)
    if len(escaped) <= most:
        return escaped
    kept = most - len(GAP)
    return escaped[: kept - kept // 2] + GAP + escaped[len(escaped) - kept // 2 :]


def show(value: object, most: int = LONGEST // 2) -> str:
    """The repr of any value for a message: short, and it never raises.

    Python does not print integers of more than 4,300 digits, and a value may contain itself.
    """
    try:
        text = repr(value)
    except Exception:  # raised by its __repr__, or by that of a part
        text = "a number of thousands of digits" if isinstance(value, int) else type(value).__name__
    return printable(text, most)


def describe_value(value: object) -> str:
    """Describe a value in a few words."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, partial):
        return f"a partial of {describe_value(value.func)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '?')}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def how_many(count: float, noun: str) -> str:
    """A number and what is counted: `1 run`, `2 runs`, `1,000 batches`."""
    plural = "es" if noun.endswith(("ch", "s")) else "s"
    return f"{count:,.15g} {noun}{plural * (count != 1)}"


def suggest(given: str, known: Iterable[str], within: str = "") -> str:
    """The end of a message: the nearest of the known names as a question, or nothing.

    Args:
        given: the unknown one.
        known: the names that there are.
        within: the key that holds them, so that what is suggested can be typed as it stands.
    """
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
    close = [f"{within}.{name}" if within else name for name in close or begun[:3]]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def explain_unknown(group: str, key: str, known: Iterable[str]) -> str:
    """What to say of a key that a group does not have: the nearest ones, or all."""
    names = list(known)
    near = suggest(key, names, group) or f"; it has {', '.join(names)}"
    return f"unknown key {group}.{key}{near}"
