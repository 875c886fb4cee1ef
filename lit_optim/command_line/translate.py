"""Overrides as typed, with those that `hf=...`, `resume=...`, `ckpt=...` stand for."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hydra.core.override_parser.types import Override

from lit_optim.compat.transformers_overrides import HF, translate_overrides
from lit_optim.config.composing import override_values
from lit_optim.config.hydra_keys import check_hydra_key
from lit_optim.config.paths import quote_path_value
from lit_optim.config.places import groups
from lit_optim.config.reading import parse_overrides
from lit_optim.config.resume_settings import AUTO, NONE
from lit_optim.config.stored import stored_overrides
from lit_optim.config.sweep_settings import OF_THE_SWEEP
from lit_optim.config.targets import MULTI_GROUPS
from lit_optim.environment import is_first
from lit_optim.errors import UsageError, escape, suggest
from lit_optim.runs.layout import FINGERPRINT
from lit_optim.runs.locks import lock_sweep_dir
from lit_optim.runs.resume import is_sweep, recorded_overrides, recorded_sweep_overrides

#: Keys that belong to a whole sweep, not to one of its runs.
NOT_SWEPT = re.compile(rf"{OF_THE_SWEEP}.*|resume\.from")
#: What is taken over from the run of a checkpoint that is only tested.
TESTED = re.compile(r"(model|data|experiment|preset|seed)(\..+)?|trainer\.precision")


@dataclass(frozen=True)
class Translation:
    """What a command line says, as overrides of our configuration.

    Args:
        recorded: taken over from the directory of another run.
        typed: on the command line, those that `hf...` stands for first.
        from_hf: the latter as text.
        untranslated: what of `hf...` has no counterpart, in one line.
        lock: of the sweep that is resumed; None where none is, or none was asked for.
    """

    recorded: list[Override]
    typed: list[Override]
    from_hf: list[str]
    untranslated: str
    lock: IO[bytes] | None = None

    @property
    def overrides(self) -> list[Override]:
        """All of them, in the order in which Hydra applies them."""
        return [*self.recorded, *self.typed]


def translate(lines: list[str], is_multirun: bool, locks: bool = False) -> Translation:
    """Parse overrides, and add those of the run that `resume`, `branch_from` or `ckpt` names.

    Args:
        lines: as typed.
        is_multirun: whether they are of a sweep.
        locks: whether to lock the directory of a sweep before it is read.

    Raises:
        UsageError: one of them cannot be read, or names an unknown group or choice; or another
            process runs the sweep.
    """
    typed, from_hf, untranslated = read_overrides(lines, is_multirun)
    lock = _lock_sweep(typed) if is_multirun and locks else None
    return Translation(_find_recorded(typed, is_multirun), typed, from_hf, untranslated, lock)


def _lock_sweep(overrides: list[Override]) -> IO[bytes] | None:
    where = _path_at({override.key_or_group: override for override in overrides}, "resume.from")
    if where in (None, NONE, AUTO):
        return None
    check_sweep_directory(where)
    return lock_sweep_dir(Path(where))


def read_overrides(lines: list[str], is_multirun: bool) -> tuple[list[Override], list[str], str]:
    """Parse overrides; those that `hf...` stands for come first.

    Returns:
        The overrides; those of `hf...` as text; what `hf...` says that has no counterpart.

    Raises:
        UsageError: one of them cannot be read, or names an unknown group or choice.
    """
    of_hf = [line for line in lines if HF.match(line)]
    plain = [line for line in lines if line not in of_hf]
    own = parse_overrides([quote_path_value(line, is_multirun) for line in plain])
    translated, untranslated = translate_overrides(of_hf, own, is_multirun) if of_hf else ([], "")
    overrides = [*parse_overrides(translated), *own]
    for override in overrides:
        check_override(override)
    return overrides, translated, untranslated


def check_override(override: Override) -> None:
    """Check the group and the choice that an override names.

    Raises:
        UsageError: there is no such group or choice, or it cannot be swept or removed.
    """
    key, known = override.key_or_group, groups()
    check_hydra_key(override)
    if override.is_sweep_override() and NOT_SWEPT.fullmatch(key):
        as_list = key == "search.seeds" and override.is_discrete_sweep()
        hint = f"; use {key}=[{str(override.input_line).partition('=')[2]}]" if as_list else ""
        raise UsageError(f"{override.input_line} applies to all runs, so it cannot be swept{hint}")
    if override.is_delete():
        if key in known:
            raise UsageError(f"{key} is required; choose one with {key}=...")
        if override.is_sweep_override():  # Hydra would list all values
            raise UsageError(f"{override.input_line}: only one value can be removed")
        return
    if "/" in key and not key.startswith("hydra/"):
        raise UsageError(f"unknown group {key}{suggest(key.replace('/', '.'), known)}")
    if override.is_sweep_override() and not override.is_discrete_sweep() and key not in known:
        return  # the sweeper may know it: `check_plugins`
    values = override_values(override)
    for value in values if key in known else ():
        if isinstance(value, list | dict):
            raise UsageError(f"{key} must be one choice per run; to run several, use -m {key}=a,b")
        if value in (None, "", "null"):
            raise UsageError(f"{key} is required; one of {', '.join(known[key])}")
        name = str(value)
        if name not in known[key]:
            near = (
                suggest(name.removesuffix(".yaml"), known[key])
                or f"; it is one of {', '.join(known[key])}"
            )
            raise UsageError(f"unknown {key} {name!r}{near}")


def check_sweep_directory(where: str) -> None:
    """Check that `resume` with `-m` names a sweep.

    Raises:
        UsageError: it does not.
    """
    if not is_sweep(Path(where)):
        raise UsageError(f"resume={where} with -m must be the directory of a sweep, runs/..._sweep")


def _find_recorded(overrides: list[Override], is_multirun: bool) -> list[Override]:
    """What the run or sweep was started with that these overrides name, unless typed otherwise.

    `resume` and `branch_from` take all of it; `ckpt`, where nothing is trained, what the weights
    and the data depend on.
    """
    typed = {override.key_or_group: override for override in overrides}
    where = _path_at(typed, "resume.from")
    if where not in (None, NONE, AUTO):
        if is_multirun:
            check_sweep_directory(where)
            recorded = recorded_sweep_overrides(Path(where))
        else:
            recorded = recorded_overrides(Path(where))
        return _accept_recorded(*recorded, typed, f"resume={where}", is_multirun)
    key = "branch_from"
    where = _path_at(typed, key)
    if where is None and "train" in typed and typed["train"].value() is False:
        key = "ckpt"
        where = _path_at(typed, key)
    if where is None or not os.path.isfile(where):
        return []
    accepted = _accept_recorded(
        *recorded_overrides(Path(where)), typed, f"{key}={where}", is_multirun
    )
    if key == "ckpt":
        accepted = [one for one in accepted if TESTED.fullmatch(one.key_or_group)]
    if accepted and is_first():
        line = shlex.join(str(one.input_line) for one in accepted)
        print(escape(f"using settings of the run that wrote {where}: {line}"))
    return accepted


def _path_at(typed: Mapping[str, Override], key: str) -> str | None:
    value = typed[key].value() if key in typed and not typed[key].is_delete() else None
    return value if isinstance(value, str) else None  # else it is swept


def _accept_recorded(
    lines: list[str], file: Path, typed: Mapping[str, Override], source: str, is_multirun: bool
) -> list[Override]:
    """Overrides of a run's directory that a file may make, without those that are typed."""
    same_keys = ("trainer", *MULTI_GROUPS)  # whatever is chosen
    chosen = tuple(f"{key}." for key in typed if key in groups() and key not in same_keys)
    accepted = stored_overrides(
        # quoted before the check, as if typed: `rerun` passes them on as if typed
        [quote_path_value(line, is_multirun) for line in lines],
        f"{source.partition('=')[0]}: {file}",
        lambda key: key in typed or key.startswith(chosen),
        is_multirun,
    )
    for override in accepted:
        check_override(override)
    return accepted


def rerun_arguments(directory: Path, lines: list[str]) -> list[str]:
    """The arguments that a run or a sweep was started with, without where it was written.

    Args:
        directory: of the run or the sweep.
        lines: overrides that are typed with it; they replace the recorded ones.

    Raises:
        UsageError: they cannot be read, or something must be typed again.
    """
    is_multirun = is_sweep(directory)
    if not is_multirun and not (directory / FINGERPRINT).is_file():
        raise UsageError(f"rerun: {directory} is not the directory of a run or a sweep")
    recorded, file = (
        recorded_sweep_overrides(directory) if is_multirun else recorded_overrides(directory)
    )
    added = parse_overrides([quote_path_value(line, is_multirun) for line in lines])
    typed = {override.key_or_group: override for override in added}
    for line in recorded:
        key, _, value = line.lstrip("+").partition("=")
        if key == "branch_from" and value not in ("null", "") and key not in typed:
            raise UsageError(f"rerun: {directory} is a branch; type {line.lstrip('+')} with it")
    accepted = _accept_recorded(recorded, file, typed, "rerun", is_multirun)
    again = [str(one.input_line) for one in accepted]
    for one, read in zip(accepted, read_overrides(again, is_multirun)[0], strict=True):
        if (one.key_or_group, one.type, one.value()) != (
            read.key_or_group,
            read.type,
            read.value(),
        ):
            raise UsageError(
                f"rerun: {file} has {one.input_line}, which is ambiguous; type it yourself"
            )
    return [*(["-m"] if is_multirun else []), *again, *lines]
