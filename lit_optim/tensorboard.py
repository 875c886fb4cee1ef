"""The command that shows the curves of a run."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from lit_optim.errors import escape


def open_command(logdir: str | Path) -> str:
    """Return `lit-optim board ...`, with its full path if the environment is not activated."""
    own = Path(sys.executable).with_name("lit-optim")
    program = "lit-optim" if shutil.which("lit-optim") else shlex.quote(format_path(own))
    return f"{program} board {shlex.quote(format_path(logdir))}"


def format_path(path: str | Path) -> str:
    """Format a path: relative to the current directory if inside, control characters escaped."""
    try:
        return escape(str(Path(path).absolute().relative_to(Path.cwd())))
    except ValueError:
        return escape(str(path))
