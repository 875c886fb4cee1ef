"""`lit-optim report`: runs compared, in a table, a page, a CSV file or figures."""

from __future__ import annotations

import argparse
import math

from lit_optim.command_line.command import (
    RUN_DIRECTORIES,
    Argument,
    Command,
    Completion,
    Section,
    path,
)


def parse_target(text: str) -> float | str | None:
    """A value of the metric, `auto`, or None for `none`."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, auto or none, got {text}")
    return value


def parse_seconds(text: str) -> float:
    """Seconds, at least one."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"must be seconds in [1, 86400], got {text}")
    return seconds


def parse_keys(text: str) -> list[str]:
    """Keys with commas between them."""
    keys = text.split(",")
    if not all(keys):
        raise argparse.ArgumentTypeError(f"must be keys separated by commas, got {text}")
    return keys


def run(args: argparse.Namespace) -> int:
    """Print the table or write the files, once or until Ctrl-C."""
    from functools import partial

    from lit_optim.interrupts import INTERRUPTED
    from lit_optim.printing import Console
    from lit_optim.results.showing import check_destination, make_report, show

    if args.to is not None:
        check_destination(args.to)
    make = partial(make_report, args.directory, args.metric, args.by, args.target)
    try:
        return show(make, args.to, Console(), args.watch)
    except KeyboardInterrupt:
        return INTERRUPTED


COMMAND = Command(
    "report",
    Section.LOOK,
    "compare runs: a table, a page with figures, a CSV file",
    run,
    (
        RUN_DIRECTORIES,
        Argument(
            "--to",
            "write a file instead: .html .csv .png .svg .pdf, or a directory for all of them",
            path,
            completion=Completion.PATHS,
        ),
        Argument("--watch", "refresh every N seconds until Ctrl-C", parse_seconds),
        Argument(
            "--target",
            "target value for the steps-to-target column: a number, auto (default) or none",
            parse_target,
            "auto",
        ),
        Argument("--metric", "metric to compare runs by (default: the one they monitor)"),
        Argument(
            "--by", "the keys that tell choices apart, such as optimizer,scheduler", parse_keys, ()
        ),
    ),
    """\
  lit-optim report runs/2026-01-31/12-00-00-000000_sweep
  lit-optim report runs --to report.html --watch 30
  lit-optim report runs/lr_sweep runs/more_seeds --by optimizer --target 0.8 --to figures

Each choice is shown at its best lr: the mean over seeds of the last value of the metric, with its
95 % interval. Runs may come from any launcher, and may still be running.""",
)
