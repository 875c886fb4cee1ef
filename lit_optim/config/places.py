"""Where the YAML files are."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from lit_optim.errors import UsageError, suggest

#: The choice of a group that is a class of the user's own.
CUSTOM = "custom"
#: What chooses a directory of the user's own choices, which stand beside ours.
OPTION = "--config-dir"
PRIMARY = "train.yaml"
_own: list[Path] = []  # that directory, once it is known; one of a process


def conf_dir() -> Path:
    """`conf/` beside the package in a checkout, inside it when installed from a wheel."""
    spec = find_spec("lit_optim")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    beside = package.parent / "conf"
    return beside if (beside / PRIMARY).is_file() else package / "conf"


def own_conf_dir() -> Path | None:
    """The directory that was given by --config-dir; None where there is none."""
    return _own[0] if _own else None


def use_conf_dir(directory: str | None) -> None:
    """Add a directory of the user's own choices, such as `optimizer/mine.yaml` in it.

    Args:
        directory: in place of an earlier one; None for none.

    Raises:
        UsageError: it is none, has no group that we know, or hides a choice of ours.
    """
    _own.clear()
    if directory is None:
        return
    path = Path(os.path.abspath(os.path.expanduser(directory)))
    if not path.is_dir():
        raise UsageError(f"{OPTION} {directory}: there is no such directory")
    ours, theirs = _choices_in(conf_dir()), _choices_in(path)
    if (path / PRIMARY).exists():
        raise UsageError(f"{OPTION} {directory}: the defaults are always ours; rename {PRIMARY}")
    for group, choices in theirs.items():
        if group not in ours and choices and (near := suggest(group, ours)):
            raise UsageError(f"{OPTION} {directory}: unknown group {group}{near}")
        for name in choices:
            if name in ours.get(group, ()):
                raise UsageError(
                    f"{OPTION} {directory}: {group}/{name}.yaml has the name of a choice of ours; "
                    "rename it"
                )
    if not set(theirs) & {*ours, "hydra"}:
        raise UsageError(
            f"{OPTION} {directory}: has no folder of a group, such as {path / 'optimizer'}"
        )
    _own.append(path)


def conf_dir_option() -> list[str]:
    """The option for that directory, as another process is to be given it."""
    own = own_conf_dir()
    return [] if own is None else [f"{OPTION}={own}"]


def groups() -> dict[str, dict[str, Path]]:
    """The choices of each group, by name: {"optimizer": {"adamw": .../adamw.yaml, ...}, ...}.

    Names of classes, which are torch's, come last. With --config-dir the user's own stand beside.
    """
    found, own = _choices_in(conf_dir()), own_conf_dir()
    if own is not None:
        more = _choices_in(own)
        for group, choices in found.items():
            both = choices | more.get(group, {})
            found[group] = dict(sorted(both.items(), key=lambda pair: _order(pair[1])))
    return found


def _choices_in(directory: Path) -> dict[str, dict[str, Path]]:
    return {
        folder.name: {
            path.stem: path for path in sorted(folder.glob("*.yaml"), key=_order) if path.is_file()
        }
        for folder in sorted(directory.iterdir())
        if folder.is_dir()
    }


def _order(path: Path) -> tuple[bool, str]:
    return path.stem != path.stem.lower(), path.stem


def shipped(group: str) -> dict[str, Path]:
    """The choices of a group that can be listed: all but `custom`."""
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
    """The class or function that a choice is; empty where it is none.

    A choice of the user's own may have that of another one, as by `defaults: [adamw]`.
    """
    text = text_of(path)
    found = re.search(r"^_target_: *(\S+)", text, re.MULTILINE)
    if found:
        return found[1]
    if path.is_relative_to(conf_dir()):
        return ""
    for name in re.findall(r"(?:^ *- |[\[,] *)([\w-]+)", text, re.MULTILINE):
        if (base := _choices_in(conf_dir()).get(path.parent.name, {}).get(name)) is not None:
            return target_of(base)
    return ""


def headline(path: Path) -> str:
    """The first comment line of a YAML file that is not an instruction to Hydra."""
    for line in text_of(path).splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.removeprefix("#").strip()
    return ""
