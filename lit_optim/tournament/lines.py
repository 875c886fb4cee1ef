"""Makes a tournament of the overrides of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lit_optim.config.check import to_plain
from lit_optim.config.composing import as_hydra_override
from lit_optim.config.reading import parse_overrides
from lit_optim.config.resume_settings import NONE
from lit_optim.errors import UsageError
from lit_optim.results.tournament_record import Tournament
from lit_optim.search.composing import compose_study
from lit_optim.search.data import Search
from lit_optim.search.settings import settings_of
from lit_optim.search.space import flatten_space, is_searched, plain_line
from lit_optim.search.studies import BY_OPTIMIZER, plan_search
from lit_optim.tournament.planning import arrange, key_of
from lit_optim.tournament.settings import GROUP, check_seeds, read_settings
from lit_optim.tournament.treatment import LR

PARTS = ("optimizer", "wrapper", "trainer")


def plan_tournament(
    lines: Sequence[str], seconds: Mapping[str, float] | None = None
) -> tuple[Search, Tournament]:
    """Make a tournament of the overrides of a sweep.

    Args:
        lines: as typed, or as Hydra gets them.
        seconds: measured for an update, by study; None: not yet.

    Returns:
        The search for all contestants, and the contestants and their tasks.

    Raises:
        UsageError: the first thing that is wrong, in one line.
    """
    cfg = compose_study([line for line in map(_of_sweep, lines) if line is not None])
    if cfg.hydra.runtime.choices.get(GROUP) in (None, NONE):
        typed = next(line for line in lines if key_of(line).startswith(f"{GROUP}."))
        raise UsageError(f"{typed.lstrip('+')} needs {GROUP}=default, or another choice of yours")
    searches = settings_of(cfg)
    settings = read_settings(_node(cfg))
    if searches["timeout"] is not None:
        raise UsageError(
            f"search.timeout={searches['timeout']}: a tournament gives each contestant the same "
            "trials; leave it out"
        )
    added = []
    if searches["trials"] is None:
        added.append(f"search.trials={settings.trials}")
    else:
        settings = replace(settings, trials=searches["trials"])
    space = flatten_space({k: v for k, v in (searches["space"] or {}).items() if k != BY_OPTIMIZER})
    overrides = parse_overrides([*lines])
    lrs = [one for one in overrides if one.key_or_group == LR]
    if lrs and not space and not searches["space"] and not any(map(is_searched, overrides)):
        raise UsageError(
            f"{plain_line(lrs[0])}: a tournament searches the lr; leave it out, or give a range, "
            f"as in {LR}=tag(log,interval(1e-4,1e-1))"
        )
    if LR not in space and not lrs:
        added.append(f"{LR}=auto")
    search = plan_search([*lines, *added])
    check_seeds(settings, search.settings.seeds)
    search = replace(search, line=tuple(line for line in search.line if line not in added))
    return arrange(search, settings, compose_parts, seconds)


def is_tournament(cfg: DictConfig) -> bool:
    """Whether a configuration asks for a tournament."""
    return bool(cfg.get(GROUP))


def compose_parts(lines: Sequence[str]) -> dict[str, Any]:
    """What of a configuration decides how a contestant is treated, and the `choices` of groups."""
    cfg = compose_study(lines)
    parts = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in PARTS}
    return parts | {"choices": OmegaConf.to_container(cfg.hydra.runtime.choices)}


def _node(cfg: DictConfig) -> dict[str, Any]:
    found: dict[str, Any] = to_plain(DictConfig({GROUP: cfg.get(GROUP) or {}}))[GROUP]
    return found


def _of_sweep(line: str) -> str | None:
    """An override that concerns the sweep as a whole, for composing; None for others."""
    (override,) = parse_overrides([line])
    is_whole = override.key_or_group in (GROUP, "search") or override.key_or_group.startswith(
        (f"{GROUP}.", "search.")
    )
    return as_hydra_override(override) if is_whole else None
