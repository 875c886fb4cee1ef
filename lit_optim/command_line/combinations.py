"""The configurations that a line with lists of values stands for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from omegaconf import DictConfig

from lit_optim.command_line.translate import read_overrides
from lit_optim.config.check import check_config
from lit_optim.config.composing import as_hydra_override, compose_config, hydra_key
from lit_optim.config.sweep_settings import is_of_sweep
from lit_optim.errors import UsageError
from lit_optim.search.space import is_auto


def compose_combinations(lines: list[str]) -> Iterator[tuple[str, DictConfig]]:
    """Compose and check every combination of the values in overrides, each with a name.

    Raises:
        UsageError: the first mistake.
    """
    overrides, _, _ = read_overrides(lines, is_multirun=True)
    if any(override.key_or_group in ("resume", "resume.from") for override in overrides):
        raise UsageError(
            "resume goes on with a run, by lit-optim train (a sweep: lit-optim train -m "
            "resume=DIR); here, type the arguments that it was started with"
        )
    swept = [override for override in overrides if override.is_sweep_override()]
    for override in swept:
        if not override.is_discrete_sweep():
            raise UsageError(f"{override.input_line}: list its values, separated by commas")
    for override in overrides:
        if is_auto(override):
            raise UsageError(f"{override.input_line} is only for a search; give an lr")
        if is_of_sweep(override.key_or_group):
            raise UsageError(f"{override.input_line} is for lit-optim train -m; leave it out")
    fixed = [as_hydra_override(override) for override in overrides if override not in swept]
    for values in itertools.product(*(override.sweep_string_iterator() for override in swept)):
        pairs = list(zip(swept, values, strict=True))
        cfg = compose_config(
            [*fixed, *(f"{hydra_key(override)}={value}" for override, value in pairs)]
        )
        check_config(cfg)
        parts = [cfg.hydra.runtime.choices["scheduler"]]
        parts += [
            f"{override.key_or_group.removeprefix('scheduler.')}={value}"
            for override, value in pairs
            if override.key_or_group != "scheduler"
        ]
        yield " ".join(parts), cfg


def compose_one(lines: list[str]) -> DictConfig:
    """Compose and check overrides that stand for a single run.

    Raises:
        UsageError: the first mistake, or there are several runs.
    """
    runs = list(compose_combinations(lines))
    if len(runs) > 1:
        raise UsageError(f"this command takes a single run, but {len(runs)} were given")
    [(_, cfg)] = runs
    return cfg
