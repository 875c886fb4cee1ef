"""The command line in front of Hydra: every mistake that can be seen is answered in one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lit_optim.config import hf
from lit_optim.config.check import check, to_plain
from lit_optim.config.help import help_text
from lit_optim.config.hf_names import DECIDE
from lit_optim.config.places import conf_dir, groups
from lit_optim.config.resume import NONE, Found, found
from lit_optim.errors import UsageError, suggest
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
    for cfg in _each_once(overrides):
        check(cfg)
    going_on = _going_on(cfg, args.multirun)
    if going_on is not None and going_on.finished:
        return Line(argv, going_on.told)
    # the other ranks join the first in its directory
    if "LOCAL_RANK" not in os.environ and not (going_on and going_on.run_dir):
        _check_directory(cfg, args.multirun)
    if theirs and os.environ.get("LOCAL_RANK", "0") == "0":
        print("hf:", *map(shlex.quote, translated))
        if left_out:
            print("hf: left out:", left_out)
    lines = [*map(_rewritten, overrides), *_implied(overrides)]
    if going_on is not None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(going_on.told)
        ours = ("++resume.from=", "hydra.sweep.dir=" if args.multirun else "hydra.run.dir=")
        lines = [x for x in lines if not x.startswith(ours)]
        if going_on.run_dir is not None:
            where = str(going_on.run_dir).replace("'", "\\'")
            one = [f"++resume.from='{where}'", f"hydra.run.dir='{where}'"]
            lines += [f"hydra.sweep.dir='{where}'"] if args.multirun else one
    return Line([*flags, *lines])


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
    fixed = [_rewritten(override) for override in overrides if override not in swept]
    fixed += _implied(overrides)
    for values in itertools.product(*(override.sweep_string_iterator() for override in swept)):
        pairs = list(zip(swept, values, strict=True))
        cfg = composed([*fixed, *(f"{_key(override)}={value}" for override, value in pairs)])
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
    if "experiment" in here and _values(here["experiment"]) != ["none"]:
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
                swept[key] = [read(f"hf={value}").value() for value in _values(override)]
                if not swept[key]:
                    raise UsageError(f"{line} cannot be swept; write its values out: hf.{key}=a,b")
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


def composed(overrides: list[str]) -> DictConfig:
    """The configuration of these overrides, with Hydra's own part.

    Raises:
        UsageError: it does not compose.
    """
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", overrides, return_hydra_config=True)
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.runtime.output_dir = "."  # only a run has one; which is of no matter here
        HydraConfig.instance().set_config(cfg)  # for the interpolations of the form ${hydra:...}
        return cfg
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_first_line(error)) from None


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
    if override.is_delete():
        if key in known:
            raise UsageError(f"{key} is required; choose one with {key}=...")
        return override
    if "/" in key and not key.startswith("hydra/"):
        raise UsageError(f"unknown group {key}{suggest(key.replace('/', '.'), known)}")
    values = _values(override)
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


def _implied(overrides: list[Override]) -> list[str]:
    """`trainer.max_epochs` alone decides the length; the default max_steps would cut it short."""
    keys = {override.key_or_group for override in overrides}
    alone = "trainer.max_epochs" in keys and "trainer.max_steps" not in keys
    return ["++trainer.max_steps=-1"] if alone else []


def _check_directory(cfg: DictConfig, multirun: bool) -> None:
    """Runs never share a directory: what lies in one would be mixed with the new."""
    place, left = ("sweep", "*/job.json") if multirun else ("run", "config.yaml")
    path = Path(cfg.hydra[place].dir)
    if any(path.glob(left)):
        raise UsageError(f"hydra.{place}.dir={path} has been used; choose another")


def _check_multirun(override: Override, multirun: bool) -> None:
    if override.is_sweep_override() and not multirun:
        raise UsageError(f"{override.input_line}: several values; to run each of them, add -m")


def _is_choice(override: Override) -> bool:
    return override.key_or_group in groups() and not override.is_sweep_override()


def _values(override: Override) -> list[object]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            return []
        values = [value.strip("'\"") for value in map(str, override.sweep_string_iterator())]
        if not values:
            raise UsageError(f"{override.input_line}: there is nothing to sweep over")
        return list(values)
    return [override.value()]


def _each_once(overrides: list[Override]) -> Iterator[DictConfig]:
    """Configurations of runs in which every swept value occurs; not their whole product."""
    fixed = [_rewritten(override) for override in overrides if not override.is_sweep_override()]
    fixed += _implied(overrides)
    swept = {
        override.key_or_group: [
            f"{_key(override)}={value}" for value in override.sweep_string_iterator()
        ]
        for override in overrides
        if override.is_sweep_override() and override.is_discrete_sweep()
    }
    first = {key: lines[0] for key, lines in swept.items()}
    cfg = composed([*fixed, *first.values()])
    yield cfg
    for key, lines in swept.items():
        for line in lines[1:]:
            if key in groups():
                yield composed([*fixed, *(first | {key: line}).values()])
            else:  # put in its place: composing anew for each of many values would take long
                before = OmegaConf.select(cfg, key)
                value = OverridesParser.create().parse_override(line).value()
                OmegaConf.update(cfg, key, value, merge=False, force_add=True)
                yield cfg
                OmegaConf.update(cfg, key, before, merge=False, force_add=True)


def _rewritten(override: Override) -> str:
    if override.is_delete():
        return str(override.input_line)
    typed = str(override.input_line).partition("=")[2]
    return f"{_key(override)}={typed}"


def _key(override: Override) -> str:
    """The key as Hydra shall see it: groups plain, values forced; `check` decides what may be."""
    key = override.get_key_element().lstrip("+")
    name = override.key_or_group
    hydras = name in groups() or "/" in name or name.startswith("hydra.")
    return key if hydras else f"++{key}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
