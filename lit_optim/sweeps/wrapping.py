"""Puts `OtherLauncher` around every launcher that is not ours.

Hydra imports this for every run, so it imports little.
"""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lit_optim.config.targets import TARGET

PLUGINS = "hydra_plugins.lit_optim_launcher"


class WrapLauncher(Callback):
    """Hydra callback: names and directories of jobs are ours, whichever launcher starts them."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra, before it makes the launcher."""
        inner = config.hydra.launcher
        if str(inner[TARGET]).startswith(PLUGINS):
            return
        outer = OmegaConf.create({TARGET: f"{PLUGINS}.OtherLauncher", "_recursive_": False})
        with read_write(config), open_dict(config):
            config.hydra.launcher = outer
            config.hydra.launcher.inner = inner
