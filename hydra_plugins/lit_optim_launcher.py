"""`hydra/launcher=processes`, and what goes around other launchers in this project's own app.

Hydra takes plugins from this package only.

Hydra imports this module in every app of an environment, so it imports little.
"""

import copy
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from lit_optim.sweeps.options import find_options, read_options

#: The module of the task of this project's own app.
OWN_APP = "lit_optim.app"


class ProcessLauncher(Launcher):
    """A process of its own for each job of a multirun.

    Args:
        options: those of `lit_optim.sweeps.options`; null: the default.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        if task_function.__module__ == OWN_APP:
            from lit_optim.sweeps.launcher import ProcessLauncher as OwnLauncher

            own = OwnLauncher(**find_options(self.options, config))
            own.setup(hydra_context=hydra_context, task_function=task_function, config=config)
            self.launch_jobs: Any = own.launch
        else:
            from lit_optim.sweeps.job_processes import JobProcesses

            n_jobs = find_options(self.options, {}).get("n_jobs", 1)
            self.launch_jobs = JobProcesses(hydra_context, task_function, config, n_jobs).launch

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        launched: Sequence[JobReturn] = self.launch_jobs(job_overrides, initial_job_idx)
        return launched


class OtherLauncher(Launcher):
    """Any other launcher in this project's own app: `WrapLauncher` puts this in its place.

    Args:
        inner: the configuration of that launcher.
    """

    def __init__(self, inner: DictConfig) -> None:
        self.inner = inner

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        from lit_optim.sweeps.other_launchers import JobBatches

        config = copy.deepcopy(config)
        with read_write(config), open_dict(config):
            config.hydra.launcher = self.inner
        inner = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        self.batches = JobBatches(inner, config, hydra_context.config_loader.load_sweep_config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        return self.batches.launch(job_overrides, initial_job_idx)


ConfigStore.instance().store(
    group="hydra/launcher",
    name="processes",
    # no dataclass: Hydra imports this module twice, and pickle would find the other one
    node={"_target_": f"{__name__}.ProcessLauncher"} | dict.fromkeys(read_options()),
    provider="lit_optim",
)
