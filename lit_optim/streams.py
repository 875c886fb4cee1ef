"""What is printed: signed, in any encoding, and without failing where it cannot be written."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import IO

#: The name of the project; the package that Python imports is lit_optim.
NAME = "lit-optim"


def sign(message: str) -> str:
    """The message after the name of the project, which is the same from each of our programs."""
    return f"{NAME}: {message}"


def tell(message: str) -> None:
    """Print a signed line to stderr at once."""
    print(sign(message), file=sys.stderr, flush=True)


def open_missing_streams() -> None:
    """Let stdin, stdout and stderr be there: the null device where the starter has closed one.

    Otherwise the next file that is opened, such as a checkpoint, would get the number of stderr,
    and with it what libraries and crashes print. Called before anything is opened.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:  # on Windows a closed one may count as taken
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:  # also for a program without a console on Windows
            stream = os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def allow_any_text() -> None:
    """Let stdout and stderr replace characters that their encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        # Python chooses the latter in the locale C, where it fails for all but file names
        if reconfigure is not None and stream.errors in (None, "strict", "surrogateescape"):
            reconfigure(errors="replace")


class Output(io.TextIOWrapper):
    """A stream to print to that loses what cannot be written, instead of raising.

    The disk of a log may be full, the terminal gone, or the reader of a pipe, while a run still
    trains.
    """

    #: The stream that it takes the place of.
    wrapped: IO[str]

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Write what is left, if it can be written."""
        with suppress(OSError):
            super().flush()


def print_without_fail(*names: str) -> None:
    """Let streams of this process be an `Output` each, if they are files, pipes or terminals.

    Args:
        *names: of them; by default stdout and stderr.
    """
    for name in names or ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            kept = {key: getattr(stream, key) for key in ("encoding", "errors", "line_buffering")}
            # others may flush the stream itself, which closes what both write to once it is gone
            output = Output(stream.buffer, newline="", write_through=True, **kept)
            output.wrapped = stream
            setattr(sys, name, output)


def can_show(text: str, stream: IO[str] | None = None) -> bool:
    """Whether the encoding of a stream, by default stdout, has every character of a text."""
    try:
        text.encode(getattr(stream or sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
