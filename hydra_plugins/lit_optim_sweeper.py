"""`hydra/sweeper=search`, which lit-optim chooses itself where a line asks for a search.

Hydra imports this module in every app of an environment, so it imports little.
"""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Runs a search or a tournament."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.config: Any = config
        self.context = hydra_context
        self.compose = hydra_context.config_loader.load_sweep_config

    def sweep(self, arguments: list[str]) -> Any:
        """Run what the overrides describe."""
        from lit_optim.search.launching import WorkerLaunches, find_other_launcher
        from lit_optim.sweeps.options import find_options
        from lit_optim.tournament.running import make_run

        other = find_other_launcher(self.config)
        options = find_options({} if other else self.config.hydra.launcher, self.config)
        run = make_run(arguments, self.config, self.compose, **options)
        if other is None:
            run.run()
        else:
            WorkerLaunches(run, self.context, other, options["n_jobs"]).run()


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="search",
    # no dataclass: Hydra imports this module twice, and pickle would find the other one
    node={"_target_": f"{__name__}.SearchSweeper"},
    provider="lit_optim",
)
