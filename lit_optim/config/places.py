"""Where the YAML files are."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from lit_optim.errors import UsageError

#: The choice of a group that is a class of the user's own.
CUSTOM = "custom"


def conf_dir() -> Path:
    """`conf/` beside the package in a checkout, inside it when installed from a wheel."""
    spec = find_spec("lit_optim")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    beside = package.parent / "conf"
    return beside if (beside / "train.yaml").is_file() else package / "conf"


def groups() -> dict[str, dict[str, Path]]:
    """The choices of each group, by name: {"optimizer": {"adamw": .../adamw.yaml, ...}, ...}.

    Names of classes, which are torch's, come last.
    """

    def order(path: Path) -> tuple[bool, str]:
        return path.stem != path.stem.lower(), path.stem

    return {
        folder.name: {
            path.stem: path for path in sorted(folder.glob("*.yaml"), key=order) if path.is_file()
        }
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }


def shipped(group: str) -> dict[str, Path]:
    """The choices of a group that we bring: all but the user's own."""
    return {name: path for name, path in groups()[group].items() if name != CUSTOM}


def text_of(path: Path) -> str:
    """What a YAML file says.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{path}: cannot be read: {why}") from None


def target_of(path: Path) -> str:
    """The class or function that a choice is; empty where it is none."""
    found = re.search(r"^_target_: *(\S+)", text_of(path), re.MULTILINE)
    return found[1] if found else ""


def headline(path: Path) -> str:
    """The first comment line of a YAML file that is not an instruction to Hydra."""
    for line in text_of(path).splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.removeprefix("#").strip()
    return ""
