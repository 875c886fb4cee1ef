"""Floor 0: the error whose message is the whole answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """What was asked for cannot be done; the message says in one line what is wrong.

    The command line prints that line and ends with code 2; a traceback would add nothing.
    """


def suggest(given: str, known: Iterable[str]) -> str:
    """The end of a message: the nearest of the known names as a question, or nothing."""
    near = difflib.get_close_matches(given, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
