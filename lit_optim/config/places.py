"""The directories with the YAML files, and what those files hold."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_optim.errors import UsageError, suggest
from lit_optim.system import find_excess
from lit_optim.untrusted import Unreadable, read_text, read_yaml

#: The choice of a group that is a class of the user's own.
CUSTOM = "custom"
#: The groups whose files may set what belongs to other groups.
GLOBAL = ("preset", "batch", "experiment", "debug")
#: The option that adds a directory with the user's own choices.
OPTION = "--config-dir"
PRIMARY = "train.yaml"
#: Says to Hydra that an app passes further arguments; this app does so for every node.
PARTIAL = "_partial_"
_own: list[Path] = []  # that directory, one per process


def conf_dir() -> Path:
    """`conf/` beside the package in a checkout, inside it when installed from a wheel."""
    spec = find_spec("lit_optim")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    beside = package.parent / "conf"
    return beside if (beside / PRIMARY).is_file() else package / "conf"


def own_conf_dir() -> Path | None:
    """The directory given by --config-dir, or None."""
    return _own[0] if _own else None


def use_conf_dir(directory: str | None) -> None:
    """Add a directory of the user's own choices, such as `optimizer/mine.yaml` in it.

    Args:
        directory: replaces an earlier one; None for none.

    Raises:
        UsageError: it does not exist, has no known group, or hides one of the listed choices.
    """
    _own.clear()
    if directory is None:
        return
    if excess := find_excess(directory):
        raise UsageError(f"{OPTION} {directory}: {excess}")
    path = Path(os.path.abspath(os.path.expanduser(directory)))
    if not path.is_dir():
        raise UsageError(f"{OPTION}: no such directory: {directory}")
    ours, theirs = _choices_in(conf_dir()), _choices_in(path)
    if path.samefile(conf_dir()):
        raise UsageError(
            f"{OPTION} {directory} is lit-optim's own conf/, which is always used; "
            "put your choices into another directory"
        )
    if (path / PRIMARY).exists():
        raise UsageError(
            f"{OPTION} {directory}: its {PRIMARY} would not be used, since defaults are always "
            f"those of lit-optim; rename {PRIMARY}"
        )
    for group, choices in theirs.items():
        if group not in ours and choices and (near := suggest(group, ours)):
            raise UsageError(f"{OPTION} {directory}: unknown group {group}{near}")
        for name in choices:
            if name in ours.get(group, ()):
                raise UsageError(
                    f"{OPTION} {directory}: {group}/{name}.yaml has the name of a built-in choice; "
                    "rename it"
                )
    if not set(theirs) & {*ours, "hydra"}:
        raise UsageError(
            f"{OPTION} {directory}: has no folder of a group, such as {path / 'optimizer'}"
        )
    _own.append(path)


def split_conf_dir(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split --config-dir, which may stand anywhere, from the other arguments.

    Raises:
        UsageError: it has no value.
    """
    directory, rest = None, []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
        else:
            directory = value if equals else next(words, None)
            if not directory:
                raise UsageError(f"{OPTION} needs a directory, as in {OPTION} conf")
    return directory, rest


def conf_dir_option() -> list[str]:
    """The option for that directory, for the command line of another process."""
    own = own_conf_dir()
    return [] if own is None else [f"{OPTION}={own}"]


def groups() -> dict[str, dict[str, Path]]:
    """The choices of each group, by name: {"optimizer": {"adamw": .../adamw.yaml, ...}, ...}.

    Class names, which are torch's, come last. With --config-dir the user's own are included.
    """
    found, own = dict(_own_choices(conf_dir())), own_conf_dir()
    if own is not None:
        more = _choices_in(own)
        for group, choices in found.items():
            both = choices | more.get(group, {})
            found[group] = dict(sorted(both.items(), key=lambda pair: _order(pair[1])))
    return found


@cache
def _own_choices(directory: Path) -> dict[str, dict[str, Path]]:
    return _choices_in(directory)


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


def listed_choices(group: str) -> dict[str, Path]:
    """The choices of a group that are listed: all but `custom`."""
    return {name: path for name, path in groups()[group].items() if name != CUSTOM}


def text_of(path: Path) -> str:
    """Read a YAML file as text.

    Raises:
        UsageError: it cannot be read.
    """
    return read_text(path)


def mapping_of(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file, as Hydra reads them.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    found = read_yaml(path, as_hydra_loads, is_users=True)
    if not isinstance(found, dict):
        kind = "a list" if isinstance(found, list) else "no mapping"
        raise UsageError(f"{path}: must hold keys and values, as in `lr: 0.1`, got {kind}")
    return {str(key): value for key, value in found.items()}


def as_hydra_loads(text: str) -> Any:
    """Parse YAML as Hydra does: unlike in plain YAML, 5e-5 is a number and a date is text."""
    from omegaconf import OmegaConf  # the listings need it only for --config-dir

    return OmegaConf.to_container(OmegaConf.create(text))


def target_of(path: Path) -> str:
    """The class or function of a choice; empty if it has none.

    A choice of the user's own may inherit it, as by `defaults: [adamw]`.
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
    """The first comment line of a YAML file that is not an instruction to Hydra.

    Of a file that cannot be read, the reason: it is only listed, not chosen.
    """
    try:
        text = text_of(path)
    except Unreadable as error:
        return f"({str(error).removeprefix(f'{path}: ')})"
    for line in text.splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.removeprefix("#").strip()
    return ""
