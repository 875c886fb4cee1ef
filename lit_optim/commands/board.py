"""`lit-optim board`: TensorBoard on runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_optim.command_line.command import Argument, Command, Completion, Section, path, port


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    from lit_optim.printing import Console
    from lit_optim.reports.board import board, has_desktop

    console = Console()
    is_opened = args.open or (console.is_terminal and has_desktop() and not args.no_open)
    board(args.directory, console, args.port, is_opened)


COMMAND = Command(
    "board",
    Section.LOOK,
    "open TensorBoard on a run, a sweep, or all runs",
    run,
    (
        Argument(
            "directory",
            "directory of a run or sweep, or a parent directory (default: runs)",
            path,
            Path("runs"),
            "?",
            completion=Completion.PATHS,
        ),
        Argument(
            "--port", "port to serve on (default: 6006, or a free one if that is taken)", port
        ),
        Argument("--open", "open a browser even if no desktop is detected", is_flag=True),
        Argument("--no-open", "only print the address of the page", is_flag=True),
    ),
    "Losses, the learning rate and validation metrics are pinned at the top.",
)
