"""`lit-optim completion`: a script for the shell's tab key."""

from __future__ import annotations

import argparse

from lit_optim.command_line.command import Argument, Command, Section
from lit_optim.command_line.completion_scripts import SHELLS


def run(args: argparse.Namespace) -> None:
    """Print the completion script."""
    from lit_optim.command_line.completion_scripts import completion_script

    print(completion_script(args.shell), end="")


COMMAND = Command(
    "completion",
    Section.SET_UP,
    "print a script that makes the tab key complete lit-optim and python train.py",
    run,
    (Argument("shell", "bash by default", str, "bash", "?", tuple(SHELLS)),),
    """\
Add the line to your shell's startup file:

  ~/.bashrc                   eval "$(lit-optim completion bash)"
  ~/.zshrc                    eval "$(lit-optim completion zsh)"
  ~/.config/fish/config.fish  lit-optim completion fish | source""",
    works_anywhere=True,
)
