"""`lit-optim explain`: what a run would do."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import OVERRIDES, Command, Section
from lit_optim.programs import find_user_packages


def run(args: argparse.Namespace) -> None:
    """Print what the run would do."""
    from lit_optim.command_line.combinations import compose_one

    find_user_packages()
    cfg = compose_one(args.overrides)  # a mistake is told before torch is imported

    from lit_optim.printing import stdout_console
    from lit_optim.reports.explanation import explain_run

    with stdout_console() as console:
        explain_run(cfg, console)


COMMAND = Command(
    "explain",
    Section.CHECK,
    "show what a run would do, and likely mistakes",
    run,
    (OVERRIDES,),
    """\
  lit-optim explain optimizer=muon scheduler=wsd trainer.max_epochs=10

Shows the length of the run and where it comes from, the schedule, the parameter groups and the
size of the optimizer's state. With trainer=fsdp also what each process keeps, sends and computes,
for any number of processes, without starting one. Nothing is trained or written.""",
)
