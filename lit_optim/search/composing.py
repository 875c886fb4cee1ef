"""Composes the configurations of studies, each line once in a process."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lit_optim.config.composing import compose_config
from lit_optim.config.places import own_conf_dir

#: Configurations that are kept.
MOST_KEPT = 256


def compose_study(lines: Sequence[str]) -> DictConfig:
    """The configuration of overrides with one value each; Hydra's own, if it runs, stays as it is.

    Composing takes a tenth of a second, copying a few milliseconds.

    Raises:
        UsageError: it does not compose.
    """
    return copy.deepcopy(_compose(tuple(lines), own_conf_dir()))


@lru_cache(maxsize=MOST_KEPT)
def _compose(lines: tuple[str, ...], own: Path | None) -> DictConfig:
    before = HydraConfig.instance().cfg
    try:
        return compose_config([*lines])
    finally:
        HydraConfig.instance().cfg = before
