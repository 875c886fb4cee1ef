"""The settings of `search`: which there are, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

from omegaconf import DictConfig

from lit_optim.config.check import to_plain
from lit_optim.config.direction import find_direction, find_metric
from lit_optim.config.places import conf_dir, mapping_of
from lit_optim.errors import UsageError, explain_unknown, show
from lit_optim.hyperparameters import accepts, describe
from lit_optim.metric_names import Direction, infer_direction
from lit_optim.search.data import Settings

GROUP = "search"
#: What may be null, for something that is known in a configuration only.
ALSO_NULL: dict[str, Any] = {
    "metric": str | None,
    "seeds": list[Annotated[int, "in [0, 4294967295]"]] | None,
}


def default_settings() -> dict[str, Any]:
    """The settings of `search=default`."""
    return mapping_of(conf_dir() / GROUP / "default.yaml")


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """All settings of `search` in a configuration, the defaults too; only their keys are checked.

    Raises:
        UsageError: there is no such setting.
    """
    given: Any = to_plain(DictConfig({GROUP: cfg.get(GROUP) or {}}, parent=None))[GROUP]
    if not isinstance(given, Mapping):
        raise UsageError(f"search must be one of its choices by name, got {show(given)}")
    defaults = default_settings()
    for key in given:
        if key not in defaults:
            raise UsageError(explain_unknown(GROUP, str(key), defaults))
    return defaults | dict(given)


def read_settings(cfg: DictConfig) -> Settings:
    """The settings of a search, checked.

    Args:
        cfg: of one of its studies.

    Raises:
        UsageError: naming the key, what was given and what is allowed.
    """
    values = settings_of(cfg)
    hints = get_type_hints(Settings, include_extras=True)
    names = [one.name for one in fields(Settings) if one.name in values]
    for key in names:
        hint = ALSO_NULL.get(key, hints[key])
        if values[key] == "" or not accepts(values[key], hint):
            what = describe(hint)
            what = "a list of whole numbers in [0, 4294967295]" if key == "seeds" else what
            raise UsageError(f"search.{key} must be {what}, got {show(values[key])}")
    seeds = [cfg.seed] if values["seeds"] is None else values["seeds"]
    if not seeds or len(set(seeds)) < len(seeds):
        why = "has a seed twice" if seeds else "must have a seed"
        raise UsageError(f"search.seeds {why}, got {show(seeds)}")
    metric, mode = _judge(cfg, values["metric"])
    chosen = {key: values[key] for key in names}
    return Settings(**chosen | {"seeds": tuple(seeds), "metric": metric}, mode=mode, seed=cfg.seed)


def _judge(cfg: DictConfig, given: str | None) -> tuple[str, Direction]:
    """The metric by which runs are judged, and whether a low one is best.

    Raises:
        UsageError: the direction is not known before the runs.
    """
    usual = find_metric(cfg)
    metric = given or usual
    mode = find_direction(cfg) if metric == usual else (infer_direction(metric) or cfg.mode)
    if mode is None:
        raise UsageError(
            f"a search must know whether a higher {metric} is better; set mode=max or mode=min"
        )
    return metric, mode
