"""`hydra/launcher=processes`; Hydra takes plugins from this package only."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from omegaconf import SI

from lit_optim.sweeps.launcher import ProcessLauncher as _ProcessLauncher


class ProcessLauncher(_ProcessLauncher):
    """A process of its own for each job of a multirun."""


@dataclass
class Conf:
    """Its keys."""

    _target_: str = f"{__name__}.ProcessLauncher"
    n_jobs: int = SI("${oc.select:n_jobs,1}")  # the setting of that name, where there is one


ConfigStore.instance().store(
    group="hydra/launcher", name="processes", node=Conf, provider="lit_optim"
)
