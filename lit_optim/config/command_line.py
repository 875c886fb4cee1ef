"""The command line in front of Hydra: every mistake that can be seen is answered in one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lit_optim.config import hf
from lit_optim.config.check import check, to_plain, unusual
from lit_optim.config.composing import (
    check_runs,
    composed,
    each_once,
    implied,
    key_of,
    rewritten,
    values_of,
)
from lit_optim.config.help import help_text
from lit_optim.config.hf_names import DECIDE
from lit_optim.config.places import conf_dir, groups
from lit_optim.config.resume import NONE, Found, found
from lit_optim.config.trainer import Count
from lit_optim.environment import forget_address, is_first, passing_directory
from lit_optim.errors import UsageError, suggest
from lit_optim.hyperparameters import accepts, describe
from lit_optim.schedules.expressions import FORMULAS
from lit_optim.schedules.shapes import NUMBERED, STAIRCASE

HF = re.compile(r"\+{0,2}hf(?=[.=]|$)")
SHORT = re.compile(r"^\+{0,2}resume=")
LENGTH = {"trainer.max_steps", "trainer.max_epochs"}
#: Of Hydra's own keys those that say where and how, not what code to run.
HYDRA_KEYS = re.compile(
    r"hydra\.((run|sweep)\.(sub)?dir|launcher\.\w+|verbose|mode|job\.name|output_subdir)$"
)  # the last two are what Lightning gives the other ranks
#: A shape with a number, which to Hydra would be a call.
SHAPE = re.compile(rf"(^|[\s:,\[{{])((?:{'|'.join([*NUMBERED, STAIRCASE])})\([^()'\"]*\))")
#: Settings that are of a whole sweep.
WHOLE = ("n_jobs", "resume.from")
#: What counts only beside another setting.
BESIDE = {
    "cooldown": "branch_from",
    "resume.horizon": "resume.from",
    "resume.override": "resume.from",
}
LITERAL = {"hydra.mode": ("RUN",), "hydra.verbose": ("True", "False")}
DIRECTORY = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
HYDRAS_OWN = ("shell_completion", "info", "hydra_help", "cfg")


@dataclass
class Line:
    """A command line that was read: the arguments to go on with, or a text to print and end."""

    argv: list[str]
    text: str | None = None


def front(argv: list[str]) -> Line:
    """Check a command line as far as that is possible before torch is imported.

    Keys are rewritten so that Hydra takes any that their constructor accepts, with or without `+`.
    `hf=...` and `hf.key=...` become our overrides, under those that were typed beside them.

    Raises:
        UsageError: the first mistake.
    """
    argv = [SHORT.sub("resume.from=", argument) for argument in argv]
    args = _parse(argv)
    flags = [argument for argument in argv if argument not in args.overrides]
    theirs = [line for line in args.overrides if HF.match(line)]
    own = [line for line in args.overrides if line not in theirs]
    translated: list[str] = []
    if theirs:
        translated, left_out = _translated(theirs, _overrides(own), args.multirun)
    if any(getattr(args, name) for name in HYDRAS_OWN):
        return Line([*flags, *translated, *own] if theirs else argv)
    overrides = [_checked(override) for override in _overrides([*translated, *own])]
    if args.help:
        chosen = {o.key_or_group: str(o.value()) for o in overrides if _is_choice(o)}
        return Line(argv, help_text(chosen))
    for override in overrides:
        _check_multirun(override, args.multirun)
    check_runs(overrides)
    for cfg in each_once(overrides):
        check(cfg)
    for override in overrides:
        _check_effect(override, cfg)
    _check_launcher(cfg)
    going_on = _going_on(cfg, args.multirun)
    if going_on is not None and going_on.finished:
        return Line(argv, going_on.told)
    if cfg.trainer.get("num_nodes", 1) == 1:
        forget_address()
    first = is_first()
    if first and not (going_on and going_on.run_dir):
        _check_directory(cfg, args.multirun)
    warning = unusual(to_plain(cfg)["optimizer"])
    if warning and first and not args.multirun:
        print(f"lit_optim: warning: {warning}", file=sys.stderr)
    if theirs and first:
        print("hf:", *map(shlex.quote, translated))
        if left_out:
            print("hf: left out:", left_out)
    lines = [*map(rewritten, overrides), *implied(overrides)]
    if going_on is not None:
        if first:
            print(going_on.told)
        ours = ("++resume.from=", "hydra.sweep.dir=" if args.multirun else "hydra.run.dir=")
        lines = [x for x in lines if not x.startswith(ours)]
        if going_on.run_dir is not None:
            where = str(going_on.run_dir).replace("'", "\\'")
            one = [f"++resume.from='{where}'", f"hydra.run.dir='{where}'"]
            lines += [f"hydra.sweep.dir='{where}'"] if args.multirun else one
    if not (first or args.multirun or any(line.startswith("hydra.run.dir=") for line in lines)):
        # launched beside the first, whose directory it does not know, nor needs
        lines += [f"hydra.run.dir='{passing_directory()}'", "hydra.output_subdir=null"]
    return Line([*flags, *lines])


def _check_launcher(cfg: DictConfig) -> None:
    at_a_time = cfg.hydra.launcher.get("n_jobs")
    ours = cfg.hydra.runtime.choices.get("hydra/launcher") == "processes"
    if ours and not accepts(at_a_time, Count):
        raise UsageError(f"hydra.launcher.n_jobs must be {describe(Count)}, got {at_a_time!r}")


def _check_effect(override: Override, cfg: DictConfig) -> None:
    """Refuse what only counts beside another setting, which is not there."""
    needed = BESIDE.get(override.key_or_group)
    if needed and OmegaConf.select(cfg, needed) in (None, NONE):
        told = needed.removesuffix(".from")
        raise UsageError(f"{override.input_line} does nothing without {told}=...")
    empty = not override.is_delete() and override.value() == {}
    if empty and OmegaConf.select(cfg, override.key_or_group, throw_on_missing=False):
        raise UsageError(
            f"{override.input_line}: a mapping is merged into what is there, an empty one changes "
            f"nothing; to leave it out, say ~{override.key_or_group}"
        )


def _going_on(cfg: DictConfig, multirun: bool) -> Found | None:
    """The run that `resume` asks for; None if it does not."""
    where = cfg.resume["from"]
    if where in (None, NONE):
        return None
    if not multirun:
        return found(to_plain(cfg))
    if not any(Path(where).glob("*/log.txt")):
        raise UsageError(f"resume={where} with -m must be the directory of a sweep, runs/..._sweep")
    return Found(Path(where), f"going on with {where}")


def combinations(lines: list[str]) -> Iterator[tuple[str, DictConfig]]:
    """Every combination of the values in overrides: checked, with a name that tells it apart.

    Raises:
        UsageError: the first mistake.
    """
    theirs = [line for line in lines if HF.match(line)]
    own = [line for line in lines if line not in theirs]
    translated = _translated(theirs, _overrides(own), True)[0] if theirs else []
    overrides = [_checked(override) for override in _overrides([*translated, *own])]
    swept = [override for override in overrides if override.is_sweep_override()]
    for override in swept:
        if not override.is_discrete_sweep():
            raise UsageError(f"{override.input_line}: write its values out, with commas between")
    fixed = [rewritten(override) for override in overrides if override not in swept]
    fixed += implied(overrides)
    for values in itertools.product(*(override.sweep_string_iterator() for override in swept)):
        pairs = list(zip(swept, values, strict=True))
        cfg = composed([*fixed, *(f"{key_of(override)}={value}" for override, value in pairs)])
        check(cfg)
        told = [cfg.hydra.runtime.choices["scheduler"]]
        told += [
            f"{override.key_or_group.removeprefix('scheduler.')}={value}"
            for override, value in pairs
            if override.key_or_group != "scheduler"
        ]
        yield " ".join(told), cfg


def _translated(theirs: list[str], own: list[Override], multirun: bool) -> tuple[list[str], str]:
    """The overrides that `hf...` stands for beside the user's own, and what they leave out."""
    file, typed, swept = _asked(theirs, multirun)
    here = {override.key_or_group: override for override in own}
    given = hf.merged(file, typed)
    for group in [group for group in DECIDE if group in here]:
        both = [f"hf.{key}" for key in DECIDE[group] if given.get(key) is not None]
        if both:
            line = here[group].input_line
            raise UsageError(f"{line} and {', '.join(both)}: both choose the {group}; give one")
    if "experiment" in here and values_of(here["experiment"]) != ["none"]:
        raise UsageError(f"{here['experiment'].input_line} and hf both choose; give one of them")
    first = _lines(given, here)
    lines = dict(first)
    for key, values in swept.items():
        runs = [_lines(hf.merged(file, typed | {key: value}), here) for value in values]
        moved = {k for run in runs for k, value in run.items() if value != first.get(k)}
        if len(moved) != 1 or any(run.keys() != first.keys() for run in runs):
            raise UsageError(f"hf.{key} cannot be swept: it is not one key here; sweep ours")
        [ours] = moved
        lines[ours] = ",".join(run[ours] for run in runs)
    return [f"{key}={value}" for key, value in lines.items()], hf.left_out(given)


def _asked(
    lines: list[str], multirun: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[Any]]]:
    """The keys of the file, those that were typed, and of the latter the values to sweep over."""
    file: dict[str, Any] = {}
    typed: dict[str, Any] = {}
    swept: dict[str, list[Any]] = {}
    for line in lines:
        key, equals, text = HF.sub("", line, count=1).removeprefix(".").partition("=")
        bare = text.strip("'\"")
        if not equals:
            raise UsageError(f"cannot read {line!r}; write hf=args.yaml or hf.learning_rate=3e-4")
        if not key:
            file = hf.read(bare)
        elif key == "optim_args" or (key == "lr_scheduler_kwargs" and '"' in bare):
            typed[key] = bare  # to transformers it is text; Hydra would take it apart
        else:
            [override] = _overrides([f"hf.{key}={text}"])
            if override.is_sweep_override():
                _check_multirun(override, multirun)
                read = OverridesParser.create().parse_override
                swept[key] = [read(f"hf={value}").value() for value in values_of(override)]
            typed[key] = swept[key][0] if key in swept else override.value()
    return file, typed, swept


def _lines(given: dict[str, Any], here: dict[str, Override]) -> dict[str, str]:
    """The translation, without what the user says otherwise."""
    lengths = LENGTH & here.keys()
    if lengths:
        given = {k: v for k, v in given.items() if k not in ("max_steps", "num_train_epochs")}
    if lengths == {"trainer.max_steps"}:  # a share of the run is so many steps then
        steps = here["trainer.max_steps"].value()
        given |= {"max_steps": steps} if isinstance(steps, int) else {}
    ours = dict(line.split("=", 1) for line in hf.translate(given))
    chosen = tuple(f"{group}." for group in DECIDE if group in here)
    return {k: v for k, v in ours.items() if k not in here and not k.startswith(chosen)}


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
    for option in ("config_path", "config_name", "config_dir"):
        if getattr(args, option):
            raise UsageError(
                f"--{option.replace('_', '-')}: the configuration is always conf/train.yaml"
            )
    unknown = [argument for argument in args.overrides if argument.startswith("--")]
    if unknown:
        name = unknown[0].lstrip("-")
        raise UsageError(f"unknown option {unknown[0]}; values are given without dashes: {name}")
    return args


def _overrides(lines: list[str]) -> list[Override]:
    search_path = create_config_search_path(str(conf_dir()))
    parser = OverridesParser.create(ConfigLoaderImpl(search_path))  # which glob() asks
    overrides = []
    for line in lines:
        try:
            overrides += parser.parse_overrides([_formula_quoted(line)])
        except HydraException:
            raise UsageError(
                f"cannot read {line!r}; write key=value, or \"key='value'\" around odd characters"
            ) from None
    return overrides


def _formula_quoted(line: str) -> str:
    """A formula as the shell hands it on, in the quotes that Hydra would want around it.

    The same for a shape with a number, as power(1.5).
    """
    key, equals, value = line.partition("=")
    listed = key.rpartition(".")[2] in ("phases", "shape", "schedules", "schedulers")
    if listed or key.startswith("schedules."):
        return key + equals + SHAPE.sub(r"\1'\2'", value)
    if key.rpartition(".")[2] not in FORMULAS or not value.strip() or value.startswith("choice("):
        return line
    parts, depth = [""], 0
    for sign in value:  # at a comma outside of brackets a sweep has its next value
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    quoted = [p if p[:1] in ("'", '"') else "'" + p.replace("'", "\\'") + "'" for p in parts]
    return key + equals + ",".join(quoted)


def _checked(override: Override) -> Override:
    """Refuse a choice that a group does not have."""
    key, known = override.key_or_group, groups()
    if key.startswith("hydra.") and (
        not HYDRA_KEYS.match(key) or "_target_" in str(override.input_line)
    ):
        raise UsageError(
            f"{key} is not for the command line; of Hydra's own keys it takes "
            "hydra.run.dir, hydra.sweep.dir, hydra.sweep.subdir and hydra.launcher.*"
        )
    if override.is_sweep_override() and (key.startswith("hydra.") or key in WHOLE):
        raise UsageError(f"{override.input_line} is not of a single run; it cannot be swept")
    if key in LITERAL and str(override.value()) not in LITERAL[key]:
        allowed = " or ".join(LITERAL[key])
        raise UsageError(f"{key} must be {allowed}, got {override.value()!r}")
    if key.endswith(DIRECTORY) and override.value() in ("", None):
        raise UsageError(f"{key} must be a directory, got {override.value()!r}")
    if override.is_delete():
        if key in known:
            raise UsageError(f"{key} is required; choose one with {key}=...")
        return override
    if "/" in key and not key.startswith("hydra/"):
        raise UsageError(f"unknown group {key}{suggest(key.replace('/', '.'), known)}")
    values = values_of(override)
    for value in values if key in known else ():
        if isinstance(value, list | dict):
            raise UsageError(f"{key} must be one choice per run; to run several, say -m {key}=a,b")
        if value in (None, "", "null"):
            raise UsageError(f"{key} is required; one of {', '.join(known[key])}")
        name = str(value).removesuffix(".yaml")
        if name not in known[key]:
            near = suggest(name, known[key]) or f"; it is one of {', '.join(known[key])}"
            raise UsageError(f"unknown {key} {name!r}{near}")
    return override


def _check_directory(cfg: DictConfig, multirun: bool) -> None:
    """Runs never share a directory, and what cannot be kept is not begun."""
    place, left = ("sweep", "*/job.json") if multirun else ("run", "config.yaml")
    path = Path(cfg.hydra[place].dir)
    if any(path.glob(left)):
        raise UsageError(f"hydra.{place}.dir={path} has been used; choose another")
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(
            f"hydra.{place}.dir={path}: nothing can be written into {there}: {error.strerror}"
        ) from None


def _check_multirun(override: Override, multirun: bool) -> None:
    if override.is_sweep_override() and not multirun:
        raise UsageError(f"{override.input_line}: several values; to run each of them, add -m")


def _is_choice(override: Override) -> bool:
    return override.key_or_group in groups() and not override.is_sweep_override()
