"""Plans a search: which studies a line makes, and what each of them searches."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lit_optim.config.composing import as_hydra_override, compose_config, hydra_key
from lit_optim.config.reading import parse_overrides
from lit_optim.config.targets import TARGET
from lit_optim.errors import UsageError
from lit_optim.search.data import Search, Space, Span, Study, Trial
from lit_optim.search.settings import read_settings, space_of
from lit_optim.search.space import (
    AUTO,
    flatten_space,
    is_searched,
    read_listed,
    read_typed,
    value_text,
)
from lit_optim.signatures import read_attribute
from lit_optim.sweeps.names import name_jobs

BY_OPTIMIZER = "by_optimizer"
LR = "optimizer.lr"
#: What concerns the search or its start as a whole, not its runs.
OF_THE_SEARCH = re.compile(r"(search|tournament|n_jobs|resume|hydra)([./].*)?")


def plan_search(lines: Sequence[str]) -> Search:
    """Make a search of the overrides of a sweep.

    Args:
        lines: as typed, or as Hydra gets them.

    Raises:
        UsageError: the first thing that is wrong, in one line.
    """
    overrides = parse_overrides([*lines])
    of_search = [one for one in overrides if OF_THE_SEARCH.fullmatch(one.key_or_group)]
    of_runs = [one for one in overrides if one not in of_search]
    shared = [as_hydra_override(one) for one in of_search if one.key_or_group.startswith("search")]
    typed = [one for one in of_runs if is_searched(one)]
    rest = [one for one in of_runs if one not in typed]
    swept = [one for one in rest if one.is_sweep_override()]
    combinations = [*_combinations(rest)]
    names = name_jobs(combinations, line=[str(one.input_line) for one in of_runs])
    studies, settings = [], None
    for name, fixed in zip(names, combinations, strict=True):
        cfg = _compose([*fixed, *shared])
        settings = settings or read_settings(cfg)
        label = {
            one.key_or_group: line.partition("=")[2]
            for one, line in zip(rest, fixed, strict=True)
            if one in swept
        }
        studies.append(Study(name if swept else "", fixed, find_space(cfg, typed, rest), label))
    assert settings is not None
    return Search(tuple(lines), tuple(studies), settings)


def job_lines(trial: Trial, seed: int) -> list[str]:
    """The overrides of one run of a trial."""
    values = [f"++{key}={value_text(value)}" for key, value in trial.values.items()]
    return [*trial.study.fixed, *values, f"++seed={seed}"]


def _combinations(overrides: Sequence[Override]) -> Iterator[tuple[str, ...]]:
    """The overrides with one value a key, for each combination of values."""
    lines = [
        [f"{hydra_key(one)}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [as_hydra_override(one)]
        for one in overrides
    ]
    yield from itertools.product(*lines)


def _compose(lines: Sequence[str]) -> DictConfig:
    """Compose a configuration; Hydra's own, where it is running, stays as it is."""
    before = HydraConfig.instance().cfg
    try:
        return compose_config([*lines])
    finally:
        HydraConfig.instance().cfg = before


def find_space(cfg: DictConfig, typed: Sequence[Override], rest: Sequence[Override]) -> Space:
    """What is searched in a study: what is typed, then what a file says of other keys.

    Args:
        cfg: of the study, without what is searched.
        typed: what is searched.
        rest: what is not.
    """
    said: dict[str, Any] = dict(space_of(cfg))
    by_optimizer = said.pop(BY_OPTIMIZER, None) or {}
    of_own = by_optimizer.get(cfg.hydra.runtime.choices["optimizer"]) or {}
    listed = flatten_space(said) | {
        f"optimizer.{key}": one for key, one in flatten_space(of_own).items()
    }
    taken = {one.key_or_group for one in [*typed, *rest]}
    found: dict[str, Any] = {one.key_or_group: read_typed(one) for one in typed}
    found |= {
        key: read_listed(f"search.space.{key}", key, one)
        for key, one in listed.items()
        if key not in taken
    }
    return {key: find_range(key, cfg) if one is None else one for key, one in found.items()}


def find_range(key: str, cfg: DictConfig) -> Span:
    """The range that the optimizer's class declares for `KEY=auto`.

    Raises:
        UsageError: it declares none.
    """
    target = cfg.optimizer[TARGET]
    ends = read_attribute(target, "lr_range") if key == LR else None
    if ends is None:
        raise UsageError(f"{key}={AUTO}: {target} declares no range; say interval(low, high)")
    low, high = ends
    return Span(float(low), float(high), is_log=True)
