"""The entry points train.py, `lit-optim` and `python -m lit_optim`; imports come later."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lit_optim.lean_start import start_lean
from lit_optim.missing import explain_missing
from lit_optim.streams import open_missing_streams


def train() -> None:
    """Run train.py."""
    open_missing_streams()
    with explain_missing():
        from lit_optim.interrupts import exit_on_interrupt

        exit_on_interrupt()  # before anything that takes time is imported
        start_lean()
        from lit_optim.app import main

        main()


def command() -> None:
    """Run `lit-optim`."""
    open_missing_streams()
    with explain_missing():
        from lit_optim.interrupts import exit_on_interrupt

        exit_on_interrupt()
        start_lean()
        from lit_optim.cli import main

        main()


def module() -> None:
    """Run `python -m lit_optim`: the subcommand that is named first, or else train.py.

    An override has a `=` or a `~`, so it is never mistaken for a subcommand.
    """
    open_missing_streams()
    word = first_word(sys.argv[1:])
    if word is not None and word.replace("-", "").isalpha():
        with explain_missing():
            from lit_optim.commands import command_names

        if word in command_names():
            command()
            return
    train()


def first_word(argv: Sequence[str]) -> str | None:
    """The first argument that is neither an option nor the directory of --config-dir."""
    words = iter(argv)
    for word in words:
        if word in ("--config-dir", "-cd"):
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None
