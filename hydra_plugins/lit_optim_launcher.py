"""`hydra/launcher=processes`; Hydra takes plugins from this package only."""

import inspect
from dataclasses import make_dataclass
from typing import get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import SI

from lit_optim.sweeps.launcher import ProcessLauncher as _ProcessLauncher


class ProcessLauncher(_ProcessLauncher):
    """A process of its own for each job of a multirun."""


#: The keys of `hydra.launcher`: the arguments of the launcher. A top-level setting of the same name
#: is the default of a key.
Conf = make_dataclass(
    "Conf",
    [
        ("_target_", str, f"{__name__}.ProcessLauncher"),
        *(
            (name, get_type_hints(_ProcessLauncher.__init__)[name],
             SI(f"${{oc.select:{name},{parameter.default}}}"))
            for name, parameter in inspect.signature(_ProcessLauncher).parameters.items()
        ),
    ],
)  # fmt: skip

ConfigStore.instance().store(
    group="hydra/launcher", name="processes", node=Conf, provider="lit_optim"
)
