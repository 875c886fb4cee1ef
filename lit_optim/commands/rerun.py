"""`lit-optim rerun`: start a run or a sweep again."""

from __future__ import annotations

import argparse
import shlex

from lit_optim.command_line.command import OVERRIDES, Argument, Command, Completion, Section, path


def run(args: argparse.Namespace) -> int | None:
    """Print the command that started it, and run that in a new directory."""
    from lit_optim.command_line.translate import rerun_arguments
    from lit_optim.commands import load_command
    from lit_optim.errors import escape

    again = rerun_arguments(args.directory, args.overrides)
    print("lit-optim train", escape(shlex.join(again)), flush=True)
    return load_command("train").run(argparse.Namespace(argv=again))


COMMAND = Command(
    "rerun",
    Section.LOOK,
    "run the command of a run or a sweep again, in a new directory",
    run,
    (
        Argument("directory", "directory of a run or sweep", path, completion=Completion.PATHS),
        OVERRIDES,
    ),
    """\
  lit-optim rerun runs/2026-01-31/12-00-00-000000_adamw_cosine_warmup seed=1

Overrides replace those that the run was started with. The settings allow and
--config-dir are never taken from a directory; type them again.""",
)
