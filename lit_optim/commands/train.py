"""`lit-optim train`: what train.py runs."""

from __future__ import annotations

import argparse
import runpy
import sys

from lit_optim.command_line.command import OVERRIDES, Command, Section


def run(args: argparse.Namespace) -> None:
    """Run it as a module, which the processes of a sweep or of a strategy can start again."""
    from lit_optim.commands import command_names
    from lit_optim.config.places import conf_dir_option
    from lit_optim.errors import UsageError

    words = [word for word in args.argv if not word.startswith("-")]
    if words and words[0] in command_names():
        raise UsageError(
            f"{words[0]} is a command of its own: use lit-optim {words[0]}, without train"
        )
    sys.argv[1:] = [*conf_dir_option(), *args.argv]
    runpy.run_module("lit_optim", run_name="__main__", alter_sys=True)


COMMAND = Command(
    "train",
    Section.TRAIN,
    "train and test a model; lit-optim train --help lists every choice and setting",
    run,
    (OVERRIDES,),
    is_raw=True,
)
