"""`lit-optim board`: TensorBoard on runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_optim.command_line.command import Argument, Command, Completion, Section, path, port


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    from rich.console import Console

    from lit_optim.reports.board import board

    board(args.directory, Console(), args.port, args.open)


COMMAND = Command(
    "board",
    Section.LOOK,
    "open TensorBoard on a run, a sweep, or all runs",
    run,
    (
        Argument(
            "directory", "of runs (runs)", path, Path("runs"), "?", completion=Completion.PATHS
        ),
        Argument("--port", "where to serve; by default 6006, or a free one", port),
        Argument("--open", "open it in a browser", is_flag=True),
    ),
    "Losses, learning rates and validation metrics are pinned at the top.",
)
