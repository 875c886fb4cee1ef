"""`lit-optim best`: the best run."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import (
    RUN_DIRECTORIES,
    Argument,
    Command,
    Completion,
    Section,
    path,
)


def run(args: argparse.Namespace) -> None:
    """Print the best run, and write its configuration if asked to."""
    from lit_optim.printing import Console
    from lit_optim.reports.best import show_best

    show_best(args.directory, args.metric, args.export, Console())


COMMAND = Command(
    "best",
    Section.LOOK,
    "show the best run: its command, directory and checkpoint",
    run,
    (
        RUN_DIRECTORIES,
        Argument("--metric", "metric to compare runs by (default: the one they monitor)"),
        Argument(
            "--export",
            "write what the run was started with, as a choice of experiment=: best.yaml",
            path,
            completion=Completion.PATHS,
        ),
    ),
    """\
  lit-optim best runs/2026-01-31/12-00-00-000000_sweep
  lit-optim best runs --export mine/experiment/best.yaml
  lit-optim train --config-dir mine experiment=best seed=10,11,12 -m

The setting with the best mean over its seeds wins, and its best run is shown.""",
)
