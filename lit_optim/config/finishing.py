"""Finishes a configuration that Hydra has composed, in the same way wherever that happens."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from lit_optim.config.length import resolve_length
from lit_optim.config.lr import resolve_lr
from lit_optim.config.old_keys import rename_old_keys
from lit_optim.config.shared_groups import adapt_shared_groups


def finish_config(cfg: DictConfig, hydra: DictConfig, run_dir: Path | None = None) -> None:
    """Decide what depends on several choices: names, the metric, the groups, the length, the lr.

    Args:
        cfg: a configuration that Hydra has composed, and is still initialized for; changed.
        hydra: Hydra's own part of it; changed.
        run_dir: of the run, which may have begun there.

    Raises:
        UsageError: something in it contradicts something else.
    """
    rename_old_keys(cfg)
    adapt_shared_groups(cfg, hydra)
    resolve_length(cfg, hydra)
    resolve_lr(cfg, hydra, run_dir)
