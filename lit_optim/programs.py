"""The commands that messages name, as they can be typed here."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from lit_optim.errors import escape

#: The script of a checkout; an installed package has none beside it.
SCRIPT = Path(__file__).parent.parent / "train.py"


def train_command() -> str:
    """Return `python train.py` in a checkout, otherwise `lit-optim train`."""
    is_started = Path(sys.argv[0]).name == SCRIPT.name
    if SCRIPT.is_file() and (is_started or Path.cwd() == SCRIPT.parent):
        return f"python {shlex.quote(format_path(SCRIPT))}"
    return f"{_own_program()} train"


def open_command(logdir: str | Path) -> str:
    """Return `lit-optim board ...`, which shows the curves of a run."""
    return f"{_own_program()} board {shlex.quote(format_path(logdir))}"


def rerun_command(run_dir: str | Path) -> str:
    """Return `lit-optim rerun ...`, which repeats a run."""
    return f"{_own_program()} rerun {shlex.quote(format_path(run_dir))}"


def format_path(path: str | Path) -> str:
    """Format a path: relative to the current directory if inside, control characters escaped."""
    try:
        return escape(str(Path(path).absolute().relative_to(Path.cwd())))
    except ValueError:
        return escape(str(path))


def _own_program() -> str:
    """Return `lit-optim`, with its full path if the environment is not activated."""
    own = Path(sys.executable).with_name("lit-optim")
    return "lit-optim" if shutil.which("lit-optim") else shlex.quote(format_path(own))
