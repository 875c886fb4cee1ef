"""Where train.py and the command `lit-optim` begin, before anything of others is imported."""

from __future__ import annotations

from lit_optim.missing import explain_missing


def train() -> None:
    """Run what train.py runs."""
    with explain_missing():
        from lit_optim.interrupts import exit_on_interrupt

        exit_on_interrupt()  # before anything that takes time is imported
        from lit_optim.app import main

        main()


def command() -> None:
    """Run what `lit-optim` runs."""
    with explain_missing():
        from lit_optim.interrupts import exit_on_interrupt

        exit_on_interrupt()
        from lit_optim.cli import main

        main()
