"""How curves are looked at, told so that the line can be copied."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from lit_optim.errors import escape


def open_command(logdir: str | Path) -> str:
    """`lit-optim board ...`, with its path where the environment is not activated."""
    own = Path(sys.executable).with_name("lit-optim")
    program = "lit-optim" if shutil.which("lit-optim") else shlex.quote(shown(own))
    return f"{program} board {shlex.quote(shown(logdir))}"


def shown(path: str | Path) -> str:
    """A path as short as it can be told: relative if it lies in the current directory.

    Control characters in it are escaped.
    """
    try:
        return escape(str(Path(path).absolute().relative_to(Path.cwd())))
    except ValueError:
        return escape(str(path))
