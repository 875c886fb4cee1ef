"""The command line in front of Hydra: every mistake that can be seen is answered in one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lit_optim import __version__
from lit_optim.command_line.help import help_text
from lit_optim.compat.transformers_overrides import HF, translate_overrides
from lit_optim.config.check import check_config, to_plain, unusual_lr_warning
from lit_optim.config.composing import (
    as_hydra_override,
    check_run_count,
    compose_config,
    compose_each_value,
    hydra_key,
    override_values,
)
from lit_optim.config.hydra_keys import check_hydra_key
from lit_optim.config.paths import quote, quote_path_value
from lit_optim.config.places import OPTION, conf_dir_option, groups, use_conf_dir
from lit_optim.config.reading import check_multirun, parse_overrides
from lit_optim.config.resume_settings import AUTO, NONE
from lit_optim.config.stored import stored_overrides
from lit_optim.config.targets import MULTI_GROUPS, TARGET
from lit_optim.config.trainer import Count
from lit_optim.environment import forget_machines, is_first, is_one_of_several, passing_directory
from lit_optim.errors import UsageError, escape, printable, show, suggest
from lit_optim.hyperparameters import accepts, describe
from lit_optim.runs.layout import CONFIG, FINGERPRINT, JOB
from lit_optim.runs.resume import (
    ResumableRun,
    check_links,
    find_resumable,
    is_sweep,
    recorded_overrides,
    recorded_sweep_overrides,
)

SHORT = re.compile(r"^\+{0,2}resume=")
#: Settings that are of a whole sweep.
WHOLE = ("n_jobs", "resume.from")
#: What counts only beside another setting.
BESIDE = {
    "cooldown": "branch_from",
    "resume.horizon": "resume.from",
    "resume.override": "resume.from",
}
#: Keys that count only with some values of another key beside them.
ONLY_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "callbacks.nonfinite.most": ("callbacks.nonfinite.policy", ("skip", "rollback")),
    "data.seed": ("data.shuffle", (True,)),
    "scheduler.gamma": ("scheduler.mode", ("exp_range",)),
    "scheduler.base_momentum": ("scheduler.cycle_momentum", (True,)),
    "scheduler.max_momentum": ("scheduler.cycle_momentum", (True,)),
    "scheduler.window_size": ("scheduler.smooth", (True,)),
    "trainer.limit_train_batches": ("trainer.overfit_batches", (0,)),
    "trainer.limit_val_batches": ("trainer.overfit_batches", (0,)),
    "trainer.limit_test_batches": ("test", (True,)),
}
#: Keys that count for a sweep only.
OF_SWEEPS = re.compile(r"n_jobs|hydra\.sweep\.dir|hydra\.launcher\..*")
#: What is taken of a run whose checkpoint is only tested.
TESTED = re.compile(r"(model|data|experiment|preset|seed)(\..+)?|trainer\.precision")
HYDRAS_OWN = ("info", "hydra_help", "cfg")


@dataclass
class PreparedArgs:
    """A command line that was read: the arguments to go on with, or a text to print and end."""

    argv: list[str]
    text: str | None = None


def prepare_command_line(argv: list[str]) -> PreparedArgs:
    """Check a command line as far as that is possible before torch is imported.

    Keys are rewritten so that Hydra takes any that their constructor accepts, with or without `+`.
    `hf=...` and `hf.key=...` become our overrides, under those that were typed beside them.

    Raises:
        UsageError: the first mistake.
    """
    argv = [SHORT.sub("resume.from=", argument) for argument in argv]
    if "--version" in argv:
        return PreparedArgs(argv, f"lit-optim {__version__}")
    args = _parse(argv)
    flags = _flags(argv, args)
    if args.shell_completion:
        return PreparedArgs(argv)  # Hydra's answer to half a line
    is_hydras = any(getattr(args, name) for name in HYDRAS_OWN)
    here, translated, left_out = _read(args.overrides, args.multirun)
    before = _before(here, args.multirun)
    overrides = [*before, *here]
    if is_hydras:
        return PreparedArgs([*flags, *(str(override.input_line) for override in overrides)])
    if args.help:
        chosen = {o.key_or_group: str(o.value()) for o in overrides if _is_choice(o)}
        targets = {o.key_or_group: str(o.value()) for o in overrides if _is_target(o)}
        return PreparedArgs(argv, help_text(chosen, targets))
    for override in overrides:
        check_multirun(override, args.multirun)
    if args.multirun and is_one_of_several():
        raise UsageError("-m starts its runs itself: not under torchrun or as several tasks")
    check_run_count(overrides)
    for cfg in compose_each_value(overrides):
        check_config(cfg)
    for override in overrides:
        _check_effect(override, cfg)
    for override in here:
        _check_sweep_keys(override, args.multirun)
    _check_launcher(cfg, overrides)
    going_on = _going_on(cfg, args.multirun)
    if going_on is not None and going_on.finished:
        return PreparedArgs(argv, escape(going_on.told))
    if cfg.trainer.get("num_nodes", 1) == 1:
        forget_machines()
    first = is_first()
    if first and not (going_on and going_on.run_dir):
        _check_directory(cfg, args.multirun)
    warning = unusual_lr_warning(to_plain(cfg)["optimizer"])
    if warning and first and not args.multirun:
        print(f"lit_optim: warning: {printable(warning)}", file=sys.stderr)
    if translated and first:
        print("hf:", *map(printable, map(shlex.quote, translated)))
    if left_out and first:
        print("hf: left out:", printable(left_out))
    lines = [*map(as_hydra_override, overrides)]
    if going_on is not None:
        if first:
            as_before = escape(shlex.join(str(one.input_line) for one in before))
            told = escape(going_on.told)
            print(f"{told}: {as_before}" if as_before else told)
        ours = ("++resume.from=", "hydra.sweep.dir=" if args.multirun else "hydra.run.dir=")
        lines = [x for x in lines if not x.startswith(ours)]
        if going_on.run_dir is not None:
            where = quote(going_on.run_dir)
            one = [f"++resume.from={where}", f"hydra.run.dir={where}"]
            lines += [f"hydra.sweep.dir={where}"] if args.multirun else one
    if not first:
        lines.append("hydra.output_subdir=null")  # the first writes it
        if not any(line.startswith("hydra.run.dir=") for line in lines):
            # launched beside the first, whose directory it does not know, nor needs
            lines.append(f"hydra.run.dir={quote(passing_directory())}")
    return PreparedArgs([*flags, *lines])


def _read(lines: list[str], multirun: bool) -> tuple[list[Override], list[str], str]:
    """What these arguments say; those that `hf...` stands for first, then as text; its rest."""
    theirs = [line for line in lines if HF.match(line)]
    others = [line for line in lines if line not in theirs]
    own = parse_overrides([quote_path_value(line, multirun) for line in others])
    translated, left_out = translate_overrides(theirs, own, multirun) if theirs else ([], "")
    return [_checked(one) for one in (*parse_overrides(translated), *own)], translated, left_out


def _before(overrides: list[Override], multirun: bool) -> list[Override]:
    """What the run or sweep that is gone on from was started with and is not typed otherwise.

    `resume` and `branch_from` take all of it; `ckpt`, where nothing is trained, what the weights
    and the data depend on.
    """
    here = {override.key_or_group: override for override in overrides}
    where = _path_at(here, "resume.from")
    if where not in (None, NONE, AUTO):
        if multirun:
            _check_sweep(where)
            return _stored(
                *recorded_sweep_overrides(Path(where)), here, f"resume={where}", multirun
            )
        return _stored(*recorded_overrides(Path(where)), here, f"resume={where}", multirun)
    key = "branch_from"
    where = _path_at(here, key)
    if where is None and "train" in here and here["train"].value() is False:
        key = "ckpt"
        where = _path_at(here, key)
    if where is None or not os.path.isfile(where):
        return []
    before = _stored(*recorded_overrides(Path(where)), here, f"{key}={where}", multirun)
    if key == "ckpt":
        before = [one for one in before if TESTED.fullmatch(one.key_or_group)]
    if before and is_first():
        told = shlex.join(str(one.input_line) for one in before)
        print(escape(f"from the run of {key}={where}: {told}"))
    return before


def _path_at(here: Mapping[str, Override], key: str) -> str | None:
    value = here[key].value() if key in here and not here[key].is_delete() else None
    return value if isinstance(value, str) else None  # else it is swept


def _stored(
    lines: list[str], file: Path, here: Mapping[str, Override], source: str, multirun: bool
) -> list[Override]:
    """Overrides of a run's directory, through the door, without those that are typed otherwise."""
    same_keys = ("trainer", *MULTI_GROUPS)  # whatever is chosen
    chosen = tuple(f"{key}." for key in here if key in groups() and key not in same_keys)
    before = stored_overrides(
        # as if it were typed, before the check: `rerun` hands it on as if it were
        [quote_path_value(line, multirun) for line in lines],
        f"{source.partition('=')[0]}: {file}",
        lambda key: key in here or key.startswith(chosen),
        multirun,
    )
    return [_checked(one) for one in before]


def rerun_arguments(directory: Path, lines: list[str]) -> list[str]:
    """The arguments by which a run or a sweep was started, without where it was written.

    Args:
        directory: of the run or the sweep.
        lines: overrides that are typed beside it, which take the place of those.

    Raises:
        UsageError: they cannot be read, or something that is to be typed again is missing.
    """
    multirun = is_sweep(directory)
    if not multirun and not (directory / FINGERPRINT).is_file():
        raise UsageError(f"rerun: {directory} is no directory of a run or a sweep")
    before, file = (
        recorded_sweep_overrides(directory) if multirun else recorded_overrides(directory)
    )
    typed_beside = [quote_path_value(line, multirun) for line in lines]
    here = {override.key_or_group: override for override in parse_overrides(typed_beside)}
    for line in before:
        key, _, value = line.lstrip("+").partition("=")
        if key == "branch_from" and value not in ("null", "") and key not in here:
            raise UsageError(f"rerun: {directory} is a branch; type {line.lstrip('+')} beside it")
    stored = _stored(before, file, here, "rerun", multirun)
    again = [str(one.input_line) for one in stored]
    for one, read in zip(stored, _read(again, multirun)[0], strict=True):
        if (one.key_or_group, one.type, one.value()) != (
            read.key_or_group,
            read.type,
            read.value(),
        ):
            raise UsageError(f"rerun: {file} has {one.input_line}, which says two things; type it")
    return [*(["-m"] if multirun else []), *again, *lines]


def _check_launcher(cfg: DictConfig, overrides: list[Override]) -> None:
    at_a_time = cfg.hydra.launcher.get("n_jobs")
    ours = cfg.hydra.runtime.choices.get("hydra/launcher") == "processes"
    if ours and not accepts(at_a_time, Count):
        raise UsageError(f"hydra.launcher.n_jobs must be {describe(Count)}, got {show(at_a_time)}")
    if ours and any(one.key_or_group == "hydra.sweep.subdir" for one in overrides):
        raise UsageError(
            "hydra.sweep.subdir is not used: the directory of a run in a sweep is named after its "
            "overrides; hydra.sweep.dir is where they all are"
        )


def _check_sweep_keys(override: Override, multirun: bool) -> None:
    """Refuse what only counts for a sweep, or only for a single run, where it is the other one."""
    key = override.key_or_group
    if not multirun and OF_SWEEPS.fullmatch(key):
        raise UsageError(f"{override.input_line} does nothing without -m")
    if multirun and key == "hydra.run.dir":
        raise UsageError(
            f"{override.input_line} does nothing with -m; the directory is hydra.sweep.dir"
        )


def _check_effect(override: Override, cfg: DictConfig) -> None:
    """Refuse what only counts beside another setting, which is not there."""
    needed = BESIDE.get(override.key_or_group)
    if needed and OmegaConf.select(cfg, needed) in (None, NONE):
        told = needed.removesuffix(".from")
        raise UsageError(f"{override.input_line} does nothing without {told}=...")
    if override.key_or_group in ONLY_WITH and not override.is_delete():
        key, values = ONLY_WITH[override.key_or_group]
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if value is not None and value not in values:
            wanted = " or ".join(f"{key}={str(one).lower()}" for one in values)
            raise UsageError(f"{override.input_line} does nothing without {wanted}")
    empty = not override.is_delete() and override.value() == {}
    if empty and OmegaConf.select(cfg, override.key_or_group, throw_on_missing=False):
        raise UsageError(
            f"{override.input_line}: a mapping is merged into what is there, an empty one changes "
            f"nothing; to leave it out, say ~{override.key_or_group}"
        )


def _going_on(cfg: DictConfig, multirun: bool) -> ResumableRun | None:
    """The run that `resume` asks for; None if it does not."""
    where = cfg.resume["from"]
    if where in (None, NONE):
        return None
    if not multirun:
        return find_resumable(to_plain(cfg))
    _check_sweep(where)
    check_links(Path(where))
    return ResumableRun(Path(where), f"going on with {where}")


def _check_sweep(where: str) -> None:
    if not is_sweep(Path(where)):
        raise UsageError(f"resume={where} with -m must be the directory of a sweep, runs/..._sweep")


def compose_combinations(lines: list[str]) -> Iterator[tuple[str, DictConfig]]:
    """Every combination of the values in overrides: checked, with a name that tells it apart.

    Raises:
        UsageError: the first mistake.
    """
    overrides, _, _ = _read(lines, multirun=True)
    if any(override.key_or_group == "resume.from" for override in overrides):
        raise UsageError("resume is for train.py; say what the run was started with")
    swept = [override for override in overrides if override.is_sweep_override()]
    for override in swept:
        if not override.is_discrete_sweep():
            raise UsageError(f"{override.input_line}: write its values out, with commas between")
    fixed = [as_hydra_override(override) for override in overrides if override not in swept]
    for values in itertools.product(*(override.sweep_string_iterator() for override in swept)):
        pairs = list(zip(swept, values, strict=True))
        cfg = compose_config(
            [*fixed, *(f"{hydra_key(override)}={value}" for override, value in pairs)]
        )
        check_config(cfg)
        told = [cfg.hydra.runtime.choices["scheduler"]]
        told += [
            f"{override.key_or_group.removeprefix('scheduler.')}={value}"
            for override, value in pairs
            if override.key_or_group != "scheduler"
        ]
        yield " ".join(told), cfg


def _parse(argv: list[str]) -> argparse.Namespace:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            args = get_args_parser().parse_intermixed_args(argv)
    except SystemExit as end:
        if not end.code:
            raise  # --version has printed its answer
        last = complaint.getvalue().strip().splitlines()[-1].rpartition("error: ")[2]
        raise UsageError(f"{last}; values are given as in optimizer.lr=1e-3") from None
    for option in ("config_path", "config_name"):
        if getattr(args, option):
            raise UsageError(
                f"--{option.replace('_', '-')}: the defaults are always ours; choices of your own "
                f"are added by {OPTION} DIR"
            )
    use_conf_dir(args.config_dir)
    if args.experimental_rerun:  # it unpickles what a directory holds, which can run anything
        raise UsageError("--experimental-rerun is not used here; say resume=DIR")
    unknown = [argument for argument in args.overrides if argument.startswith("--")]
    if unknown:
        name = unknown[0].lstrip("-")
        raise UsageError(f"unknown option {unknown[0]}; values are given without dashes: {name}")
    return args


def _flags(argv: list[str], args: argparse.Namespace) -> list[str]:
    """The options for Hydra, with the whole path of the user's own choices."""
    rest = iter(argument for argument in argv if argument not in args.overrides)
    flags = []
    for argument in rest:
        if argument in (OPTION, "-cd"):
            next(rest)
        elif not argument.startswith((f"{OPTION}=", "-cd")):
            flags.append(argument)
    return [*flags, *conf_dir_option()]


def _checked(override: Override) -> Override:
    """Refuse a choice that a group does not have."""
    key, known = override.key_or_group, groups()
    check_hydra_key(override)
    if override.is_sweep_override() and key in WHOLE:
        raise UsageError(f"{override.input_line} is not of a single run; it cannot be swept")
    if override.is_delete():
        if key in known:
            raise UsageError(f"{key} is required; choose one with {key}=...")
        return override
    if "/" in key and not key.startswith("hydra/"):
        raise UsageError(f"unknown group {key}{suggest(key.replace('/', '.'), known)}")
    values = override_values(override)
    for value in values if key in known else ():
        if isinstance(value, list | dict):
            raise UsageError(f"{key} must be one choice per run; to run several, say -m {key}=a,b")
        if value in (None, "", "null"):
            raise UsageError(f"{key} is required; one of {', '.join(known[key])}")
        name = str(value)
        if name not in known[key]:
            near = (
                suggest(name.removesuffix(".yaml"), known[key])
                or f"; it is one of {', '.join(known[key])}"
            )
            raise UsageError(f"unknown {key} {name!r}{near}")
    return override


def _check_directory(cfg: DictConfig, multirun: bool) -> None:
    """Runs never share a directory, and what cannot be kept is not begun."""
    place, left = ("sweep", f"*/{JOB}") if multirun else ("run", CONFIG)
    path = Path(cfg.hydra[place].dir)
    there = path
    try:
        if any(path.glob(left)):
            raise UsageError(f"hydra.{place}.dir={path} has been used; choose another")
        there = next(one for one in (path, *path.absolute().parents) if os.path.exists(one))
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(
            f"hydra.{place}.dir={path}: nothing can be written into {there}: {error.strerror}"
        ) from None


def _is_target(override: Override) -> bool:
    """Whether it names the class of a group."""
    group, _, key = override.key_or_group.partition(".")
    return key == TARGET and group in groups() and not override.is_sweep_override()


def _is_choice(override: Override) -> bool:
    return override.key_or_group in groups() and not override.is_sweep_override()
