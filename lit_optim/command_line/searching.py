"""What a command line says of a search: whether it is one, and what would be wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_type_hints

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lit_optim.command_line.effects import never_validates
from lit_optim.command_line.plugins import check_launcher, check_processes
from lit_optim.config.check import check_config, to_plain
from lit_optim.config.reading import check_multirun
from lit_optim.config.resume_settings import NONE
from lit_optim.config.settings import Settings
from lit_optim.config.sweep_settings import is_of_sweep
from lit_optim.errors import UsageError, show
from lit_optim.hyperparameters import accepts, describe
from lit_optim.runs.layout import SEARCH
from lit_optim.search.checking import check_fixed, check_resumed, check_search
from lit_optim.search.data import Search
from lit_optim.search.settings import read_settings, settings_of
from lit_optim.search.space import LR, is_auto, is_searched, plain_line
from lit_optim.search.studies import plan_search
from lit_optim.tournament.lines import is_tournament, plan_tournament

#: Hydra's sweeper that runs a search.
SWEEPER = "search"
#: So many studies that checking them takes seconds.
MANY = 10
N_JOBS = get_type_hints(Settings, include_extras=True)["n_jobs"]
HINT = "is only for a search; add search.trials=12"


def is_search(cfg: DictConfig) -> bool:
    """Whether a configuration is that of a search or a tournament.

    Raises:
        UsageError: a setting of `search` does not exist.
    """
    if is_tournament(cfg):
        return True
    return bool(cfg.get("search")) and settings_of(cfg)["trials"] is not None


def plan(cfg: DictConfig, lines: Sequence[str]) -> Search:
    """Make a search of overrides; of a tournament, that of its contestants.

    Raises:
        UsageError: the first thing that is wrong.
    """
    return plan_tournament(lines)[0] if is_tournament(cfg) else plan_search(lines)


def check_searching(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    """Refuse a search with a mistake in it, before anything runs.

    Args:
        cfg: of a sweep that is a search.
        overrides: of the sweep.

    Raises:
        UsageError: the first mistake.
    """
    for one in overrides:
        if one.key_or_group == "hydra/sweeper":
            raise UsageError(
                f"{plain_line(one)}: a search uses its own sweeper; leave it out, or leave out "
                "search.trials"
            )
    check_launcher(cfg)
    check_processes(cfg)
    if not is_tournament(cfg):  # which has its own number of trials
        read_settings(cfg)
    where = cfg.resume["from"]
    if where not in (None, NONE):
        check_fixed(overrides, Path(where))
    search = plan(cfg, [str(one.input_line) for one in overrides])
    if not accepts(cfg.n_jobs, N_JOBS):
        raise UsageError(f"n_jobs must be {describe(N_JOBS)}, got {show(cfg.n_jobs)}")
    if len(search.studies) >= MANY:
        print(f"checking {len(search.studies)} studies", file=sys.stderr)
    check_search(search)
    metric, never = search.settings.metric, never_validates(to_plain(cfg)["trainer"])
    if never and metric.startswith("val"):
        raise UsageError(f"a search compares runs by {metric}, but with {never} there is none")
    if where not in (None, NONE):
        check_resumed(search, Path(where))


def check_single(overrides: Sequence[Override]) -> None:
    """Refuse several values, and what is to be searched, in a single run.

    Raises:
        UsageError: naming the override.
    """
    for one in overrides:
        if is_searched(one) and not one.is_discrete_sweep():
            raise UsageError(f"{plain_line(one)} {HINT.replace('add', 'add -m')}")
        check_multirun(one, multirun=False)


def check_not_searching(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    """Refuse what only a search has, in a sweep that is none.

    Raises:
        UsageError: naming it, and how to search.
    """
    where = cfg.resume["from"]
    if where not in (None, NONE) and (Path(where) / SEARCH).is_file():
        raise UsageError(f"resume={where} is the directory of a search; add search.trials=...")
    for one in overrides:
        line, key = plain_line(one), one.key_or_group
        if is_auto(one):
            OmegaConf.update(cfg, LR, 1.0)  # another mistake may be why this is no search
            check_config(cfg)
            raise UsageError(f"{line} {HINT}")
        is_sweeper = key == "hydra/sweeper" and one.value() == SWEEPER
        is_setting = is_of_sweep(key) and not _is_none(one)
        if is_sweeper or is_setting:
            raise UsageError(f"{line} does nothing without search.trials=...")


def _is_none(override: Override) -> bool:
    return override.is_delete() or override.value() in (None, NONE)
