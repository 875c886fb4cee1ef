"""`lit-optim worker`: join a search that another process has started."""

from __future__ import annotations

import argparse
import runpy
import sys

from lit_optim.command_line.command import (
    OVERRIDES,
    Argument,
    Command,
    Completion,
    Section,
    path,
    positive_int,
)
from lit_optim.programs import find_user_packages
from lit_optim.streams import print_without_fail
from lit_optim.system import accept_hangups, accept_interrupts


def run(args: argparse.Namespace) -> None:
    """Work as a module, which the processes of its runs can start again."""
    from lit_optim.config.places import conf_dir_option

    # Looked up now: run_module puts another main program there, and calls this module again.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("lit_optim"):
        words = [str(args.directory), f"--jobs={args.jobs}", *args.overrides]
        sys.argv[1:] = [*conf_dir_option(), "worker", *words]
        runpy.run_module("lit_optim", run_name="__main__", alter_sys=True)
        return
    find_user_packages()
    print_without_fail()
    accept_interrupts()
    accept_hangups()
    from lit_optim.search.worker import work
    from lit_optim.tournament.running import make_run

    work(args.directory, args.jobs, args.overrides, make_run)


COMMAND = Command(
    "worker",
    Section.TRAIN,
    "run trials of a search that was started elsewhere, on this machine or another",
    run,
    (
        Argument("directory", "directory of the search", path, completion=Completion.PATHS),
        Argument("--jobs", "concurrent runs (default: 1)", positive_int, 1),
        OVERRIDES,
    ),
    """\
  lit-optim worker runs/2026-01-31/12-00-00-000000_sweep --jobs 2
  lit-optim worker /shared/runs/search search.storage=journal:/shared/study.log

Every worker must see the directory of the search and its storage. A worker takes over the trials of
workers that have died, from their checkpoints, and exits when every trial has finished, no matter
which process ran it.""",
)
