"""Our programs: where they run, and their commands that messages name, to be typed here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from lit_optim.errors import UsageError, escape

#: The script of a checkout; an installed package has none beside it.
SCRIPT = Path(__file__).parent.parent / "train.py"


def current_directory() -> str:
    """The directory in which this program was started.

    Raises:
        UsageError: it has been removed since; torch would crash there.
    """
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current directory no longer exists; cd to another one") from None


def find_user_packages() -> None:
    """Let the packages in the current directory be imported, which are the user's own.

    Raises:
        UsageError: there is no such directory.
    """
    sys.path.append(current_directory())


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
