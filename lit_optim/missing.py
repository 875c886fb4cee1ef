"""Floor 0: what is missing is answered by one line that says what to do.

An environment that is not activated is the usual reason. Nothing of others is imported here, and
Pythons that are too old can read it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OLDEST = (3, 10)
MISSING = 1
#: What lit_optim cannot do without, as it is imported.
PACKAGES = (
    *("antlr4", "hydra", "lightning", "mnist1d", "numpy", "omegaconf", "rich", "simpleeval"),
    *("sklearn", "tensorboard", "torch", "torchmetrics", "typing_extensions", "yaml"),
)


@contextmanager
def explain_missing() -> Iterator[None]:
    """End with one line where a package that lit_optim needs is not there, or Python is too old."""
    if sys.version_info < OLDEST:
        needed, here = ".".join(map(str, OLDEST)), sys.version.split()[0]
        sys.exit(
            f"lit_optim: needs Python {needed}, and {sys.executable} is {here}; {_what_to_do()}"
        )
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in PACKAGES:
            raise  # of the user's own
        print(
            f"lit_optim: {name} is not installed for {sys.executable}; {_what_to_do()}",
            file=sys.stderr,
        )
        sys.exit(MISSING)


def _what_to_do() -> str:
    """How to get at an environment that has everything."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder = "Scripts" if os.name == "nt" else "bin"
    program = os.path.join(".venv", folder, "python")
    if os.path.exists(os.path.join(root, program)):
        activate = os.path.join(".venv", folder, "activate")
        start = activate if os.name == "nt" else f". {activate}"
        return f"activate the environment with `{start}`, or run `{program} train.py`"
    if os.path.exists(os.path.join(root, "pyproject.toml")):
        return "`make train` sets up everything, or: python -m pip install -c constraints.txt -e ."
    return "python -m pip install lit-optim"
