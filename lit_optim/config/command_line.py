"""The command line in front of Hydra: every mistake that can be seen is answered in one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lit_optim.config.check import check
from lit_optim.config.help import help_text
from lit_optim.config.places import conf_dir, groups
from lit_optim.errors import UsageError, suggest
from lit_optim.schedules.expressions import FORMULAS

HYDRAS_OWN = ("shell_completion", "info", "hydra_help", "cfg")


@dataclass
class Line:
    """A command line that was read: the arguments to go on with, or a text to print and end."""

    argv: list[str]
    text: str | None = None


def front(argv: list[str]) -> Line:
    """Check a command line as far as that is possible before torch is imported.

    Keys are rewritten so that Hydra takes any that their constructor accepts, with or without `+`.

    Raises:
        UsageError: the first mistake.
    """
    args = _parse(argv)
    if any(getattr(args, name) for name in HYDRAS_OWN):
        return Line(argv)
    overrides = [_checked(override) for override in _overrides(args.overrides)]
    if args.help:
        chosen = {o.key_or_group: str(o.value()) for o in overrides if _is_choice(o)}
        return Line(argv, help_text(chosen))
    if not args.multirun:
        for override in overrides:
            if override.is_sweep_override():
                raise UsageError(
                    f"{override.input_line}: several values; to run each of them, add -m"
                )
    for cfg in _each_once(overrides):
        check(cfg)
    if "LOCAL_RANK" not in os.environ:  # the other ranks join the first in its directory
        _check_directory(cfg, args.multirun)
    flags = [argument for argument in argv if argument not in args.overrides]
    return Line([*flags, *map(_rewritten, overrides), *_implied(overrides)])


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
    """A formula as the shell hands it on, in the quotes that Hydra would want around it."""
    key, equals, value = line.partition("=")
    if key.rpartition(".")[2] not in FORMULAS or value[:1] in ("'", '"') or not value.strip():
        return line
    if value.startswith("choice("):
        return line
    # at a comma outside of brackets a sweep has its next value
    parts = re.split(r",(?![^(]*\))", value)
    return key + equals + ",".join("'" + part.replace("'", "\\'") + "'" for part in parts)


def _checked(override: Override) -> Override:
    """Refuse a choice that a group does not have."""
    key, known = override.key_or_group, groups()
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
