"""`lit-optim results`: a table of runs."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import Argument, Command, Completion, Section, path


def run(args: argparse.Namespace) -> None:
    """Print the table of runs."""
    from lit_optim.printing import Console
    from lit_optim.results.showing import show_results

    show_results(args.directory, Console())


COMMAND = Command(
    "results",
    Section.LOOK,
    "show a table of a run, a sweep, or all runs below a directory",
    run,
    (
        Argument(
            "directory",
            "directory of a run or sweep, or a parent directory",
            path,
            completion=Completion.PATHS,
        ),
    ),
    """\
The best choice comes first, each at its best lr, with the mean over seeds and its 95 % interval.
Runs that are judged by different metrics have a table each. See lit-optim report for figures.""",
)
