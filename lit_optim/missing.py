"""One line that says what to do where a package is missing, or Python is too old.

The usual reasons are an environment that is not activated, and an installation without the extra
`train`. Only the standard library and `streams` are imported here, and versions of Python
that are too old can parse both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from lit_optim.streams import sign, tell

OLDEST = (3, 10)
MISSING = 1
INSTALL = "python -m pip install 'lit-optim[train]'"
#: The packages of `lit-optim[train]`, which the command line requires, by their import names.
PACKAGES = (
    *("antlr4", "hydra", "lightning", "mnist1d", "numpy", "omegaconf", "rich", "simpleeval"),
    *("scipy", "sklearn", "tensorboard", "torch", "torchmetrics", "typing_extensions", "yaml"),
)


def require(*packages: str, user: str, how: str = INSTALL) -> None:
    """Check that a package is there which `pip install lit-optim` does not install.

    Args:
        packages: import names, one of which is enough.
        user: what needs it.
        how: the command that installs the first one.

    Raises:
        ModuleNotFoundError: none is there; the line says how to install it.
    """
    if not any(map(find_spec, packages)):
        message = f"{user} needs {packages[0]}, which is not installed: {how}"
        raise ModuleNotFoundError(message, name=packages[0])


@contextmanager
def explain_missing() -> Iterator[None]:
    """Exit with one line if a package of the command line is missing, or Python is too old."""
    if sys.version_info < OLDEST:
        needed, here = ".".join(map(str, OLDEST)), sys.version.split()[0]
        sys.exit(sign(f"needs Python {needed}, and {sys.executable} is {here}; {_what_to_do()}"))
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in PACKAGES:
            raise  # imported by the user's code
        tell(f"{name} is not installed for {sys.executable}; {_what_to_do()}")
        sys.exit(MISSING)


def _what_to_do() -> str:
    """How to get an environment that has everything."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder = "Scripts" if os.name == "nt" else "bin"
    program = os.path.join(".venv", folder, "python")
    if os.path.exists(os.path.join(root, program)):
        activate = os.path.join(".venv", folder, "activate")
        start = activate if os.name == "nt" else f". {activate}"
        return f"activate the environment with `{start}`, or run `{program} train.py`"
    if os.path.exists(os.path.join(root, "pyproject.toml")):
        by_hand = "python -m pip install -c constraints.txt -e '.[train]'"
        return f"`make train` sets up everything, or: {by_hand}"
    return INSTALL
