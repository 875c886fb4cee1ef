"""`lit-optim complete`: what a shell calls for its tab key."""

from __future__ import annotations

import argparse
from contextlib import suppress

from lit_optim.command_line.command import Command


def run(args: argparse.Namespace) -> None:
    """Print the words that the last word of a line may become, one per line."""
    from lit_optim.command_line.completion import candidates
    from lit_optim.commands import load_commands
    from lit_optim.config.places import split_conf_dir, use_conf_dir
    from lit_optim.errors import UsageError

    [line] = args.argv or [""]
    with suppress(UsageError):  # the directory may be what is being typed
        directory, _ = split_conf_dir(line.split())
        use_conf_dir(directory)
    print("\n".join(candidates(line, load_commands())))


COMMAND = Command(
    "complete", None, "print the completions of a line", run, is_raw=True, works_anywhere=True
)
