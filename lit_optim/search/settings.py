"""The settings of `search`: which there are, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig

from lit_optim.config.check import to_plain
from lit_optim.config.places import groups, mapping_of
from lit_optim.errors import UsageError, show, suggest
from lit_optim.metric_names import infer_direction
from lit_optim.search.data import Settings


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """All settings of `search` as a configuration has them, with the defaults; unchecked."""
    said = cfg.get("search") or {}
    defaults = mapping_of(groups()["search"]["default"])
    given: dict[str, Any] = to_plain(DictConfig({"search": said}))["search"]
    return defaults | given


def read_settings(cfg: DictConfig) -> Settings:
    """The settings of a search, checked.

    Args:
        cfg: of one of its studies.

    Raises:
        UsageError: naming the key, what was given and what is allowed.
    """
    said = settings_of(cfg)
    for key in said:
        if key not in mapping_of(groups()["search"]["default"]):
            raise UsageError(f"unknown key search.{key}{suggest(key, said)}")
    hints = get_type_hints(Settings)
    for key in ("sampler", "pruner", "at"):
        if said[key] not in get_args(hints[key]):
            allowed = ", ".join(get_args(hints[key]))
            raise UsageError(f"search.{key} must be one of {allowed}, got {show(said[key])}")
    metric = said["metric"] or cfg.monitor or "val/loss"
    return Settings(
        trials=said["trials"],
        timeout=said["timeout"],
        seeds=tuple(said["seeds"]),
        sampler=said["sampler"],
        pruner=said["pruner"],
        metric=metric,
        mode=cfg.mode or infer_direction(metric) or "min",
        at=said["at"],
        storage=said["storage"],
        seed=cfg.seed,
    )


def space_of(cfg: DictConfig) -> Mapping[str, Any]:
    """The space that files say, as they say it."""
    return settings_of(cfg)["space"] or {}
