"""Where the YAML files are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


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
        folder.name: {path.stem: path for path in sorted(folder.glob("*.yaml"), key=order)}
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }


def shipped(group: str) -> dict[str, Path]:
    """The choices of a group that we bring: all but `custom`, which is a class of the user's."""
    return {name: path for name, path in groups()[group].items() if name != "custom"}


def headline(path: Path) -> str:
    """The first comment line of a YAML file that is not an instruction to Hydra."""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.removeprefix("#").strip()
    return ""
