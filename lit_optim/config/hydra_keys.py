"""Hydra's own keys and groups that a command line may set, and to which values.

They can name code to run and places to write, so only those listed here may be typed. A file may
set none of them (see `stored`).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override

from lit_optim.config.places import own_conf_dir
from lit_optim.config.reading import search_path
from lit_optim.config.targets import TARGET, find_targets
from lit_optim.errors import UsageError, show, suggest

#: Where and how a run is started. Lightning gives job.name and output_subdir to the other ranks.
KEYS = re.compile(
    r"hydra\.((run|sweep)\.dir|sweep\.subdir|verbose|mode|job\.name|output_subdir|"
    r"(launcher|sweeper)(\.[\w-]+)+)"
)
#: A key of the launcher or the sweeper, which may be a plugin of others.
PLUGIN_KEY = re.compile(r"hydra\.(launcher|sweeper)\..+")
#: Groups whose choices are installed with Hydra or its plugins.
GROUPS = ("launcher", "sweeper", "job_logging", "hydra_logging")
#: What to install for a choice that is not there.
PACKAGES = {
    "hydra/launcher": {
        "joblib": "hydra-joblib-launcher",
        "ray": "hydra-ray-launcher",
        "ray_aws": "hydra-ray-launcher",
        "rq": "hydra-rq-launcher",
        "submitit_local": "hydra-submitit-launcher",
        "submitit_slurm": "hydra-submitit-launcher",
    },
    "hydra/sweeper": {
        "ax": "hydra-ax-sweeper",
        "nevergrad": "hydra-nevergrad-sweeper",
        "optuna": "hydra-optuna-sweeper",
    },
}
LITERAL = {
    "hydra.mode": ("RUN",),
    "hydra.verbose": ("True", "False"),
    "hydra.output_subdir": ("None",),
}
DIRECTORY = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
NAME = re.compile(r"[\w-]+")


def check_hydra_key(override: Override) -> None:
    """Refuse an override of Hydra's own part that may not be typed.

    Raises:
        UsageError: it could name code to run, or has a value that Hydra does not take.
    """
    key, value = override.key_or_group, override.value()
    if override.package is not None:
        raise UsageError(f"{override.input_line}: a group cannot be moved; use {key}=...")
    if key.startswith("hydra/"):
        _check_group(override)
    if key != "hydra" and not key.startswith("hydra."):
        return
    if key == "hydra.searchpath":
        raise UsageError(
            "hydra.searchpath cannot be set on the command line; a directory with your own choices "
            "is added by --config-dir DIR"
        )
    code = [*find_targets(key, value)] if isinstance(value, dict | list) else []
    if not KEYS.fullmatch(key) or override.is_delete() or key.endswith(TARGET) or code:
        raise UsageError(
            f"{key} cannot be set on the command line; of Hydra's own keys, it takes only "
            "hydra.run.dir, hydra.sweep.dir, hydra.launcher.* and hydra.sweeper.*"
        )
    if override.is_sweep_override():
        raise UsageError(f"{override.input_line} applies to all runs, so it cannot be swept")
    if key in LITERAL and str(value) not in LITERAL[key]:
        allowed = " or ".join(LITERAL[key]).replace("None", "null")
        raise UsageError(f"{key} must be {allowed}, got {show(value)}")
    if key in DIRECTORY and value in ("", None):
        raise UsageError(f"{key} must be a directory, got {show(value)}")
    if key == "hydra.job.name" and not NAME.fullmatch(str(value)):
        raise UsageError(f"{key} must be a name, got {show(value)}")


def _check_group(override: Override) -> None:
    key, value = override.key_or_group, override.value()
    name = key.removeprefix("hydra/")
    is_plugins = name.startswith(("launcher/", "sweeper/"))  # such as sweeper/sampler
    if (name not in GROUPS and not is_plugins) or override.is_delete():
        takes = ", ".join(f"hydra/{group}" for group in GROUPS)
        raise UsageError(
            f"{key} cannot be set on the command line; of Hydra's own groups, it takes only {takes}"
        )
    if override.is_sweep_override():
        raise UsageError(f"{override.input_line} applies to all runs, so it cannot be swept")
    known = _installed_choices(key, own_conf_dir())
    if not isinstance(value, str) or value not in known:
        if (package := PACKAGES.get(key, {}).get(str(value))) is not None:
            raise UsageError(f"{key}={value} is not installed: python -m pip install {package}")
        one_of = f"; it is one of {', '.join(known)}" if known else "; no plugin has such a group"
        near = suggest(str(value), known) or one_of
        raise UsageError(f"unknown {key} {value!r}{near}")


@cache
def _installed_choices(group: str, own: Path | None) -> list[str]:
    """The choices of one of Hydra's groups that its search path has."""
    loader: Any = ConfigLoaderImpl(search_path())
    return [name for name in loader.get_group_options(group) if NAME.fullmatch(name)]
