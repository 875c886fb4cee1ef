"""How TensorBoard is opened on a directory, told so that the line can be copied."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def open_command(logdir: str | Path) -> str:
    """`tensorboard --logdir ...`, with its path where the environment is not activated."""
    own = Path(sys.executable).with_name("tensorboard")
    program = "tensorboard" if shutil.which("tensorboard") else shown(own)
    return f"{program} --logdir {shown(logdir)}"


def shown(path: str | Path) -> str:
    """A path as short as it can be told: relative if it lies in the current directory."""
    try:
        return str(Path(path).absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
