"""What a command line says to the launchers and sweepers of others, in Hydra's plugins.

Their own schemas say which keys they have, so that a misspelled one is reported before the sweep.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lit_optim.config.composing import check_run_count, compose_config
from lit_optim.config.direction import find_direction
from lit_optim.config.hydra_keys import PLUGIN_KEY
from lit_optim.config.targets import TARGET
from lit_optim.errors import UsageError, suggest

#: Our own launcher, which reads `n_jobs` itself.
OWN = "processes"
#: The keys by which launchers of others limit the jobs that run at a time.
LIMITS = ("n_jobs", "array_parallelism")
#: What a launcher without such a key does instead, by its name.
WITHOUT_LIMIT = {
    "basic": "which runs one job at a time",
    "submitit_local": "which starts all jobs at once",
    "ray": "whose limit is hydra.launcher.ray.init.num_cpus",
}
#: Strategies of several processes.
DISTRIBUTED = ("ddp", "fsdp", "deepspeed", "model_parallel")
#: Sweepers that run every combination; others search, and know `interval` and `tag`.
GRIDS = ("basic",)


def check_plugin_keys(overrides: Sequence[Override]) -> None:
    """Refuse a key that the chosen launcher or sweeper does not have.

    Raises:
        UsageError: naming the key and the nearest one.
    """
    given = [one for one in overrides if PLUGIN_KEY.fullmatch(one.key_or_group)]
    if not given:
        return
    groups = [one.input_line for one in overrides if one.key_or_group.startswith("hydra/")]
    hydra = compose_config([str(line) for line in groups]).hydra
    for override in given:
        path = override.key_or_group.split(".")[1:]
        _check_known(override, hydra[path[0]], hydra.runtime.choices[f"hydra/{path[0]}"])


def _check_known(override: Override, node: Any, choice: str) -> None:
    """Follow a key as far as the schema of a plugin says what there is."""
    kind, *names = override.key_or_group.split(".")[1:]
    plugin, walked = f"hydra/{kind}={choice}", f"hydra.{kind}"
    if isinstance(override.value(), dict):
        names.append("")  # of what is in it
    for depth, name in enumerate(names):
        if node is None:
            raise UsageError(f"{walked} is null in {plugin}: its keys can be given only in a file")
        if not OmegaConf.is_dict(node):
            raise UsageError(f"{walked} of {plugin} has no keys")
        known = [str(key) for key in node if key != TARGET]
        if name not in known:
            if depth > 0 and OmegaConf.get_type(node) is dict:  # such as additional_parameters
                return
            if not name:
                continue
            has = f"; it has {', '.join(known)}" if known else ""
            near = suggest(name, known, walked) or has
            raise UsageError(f"{plugin} has no key {walked}.{name}{near}")
        node, walked = OmegaConf.select(node, name, throw_on_missing=False), f"{walked}.{name}"


def check_plugins(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    """Refuse what the launcher and the sweeper of a sweep cannot do.

    Args:
        cfg: of the first run.
        overrides: of the sweep.

    Raises:
        UsageError: a search without a sweeper that searches, too many runs, `n_jobs` for a launcher
            that has no such thing, or one that finds no cluster here.
    """
    choices = cfg.hydra.runtime.choices
    if choices.get("hydra/sweeper") in GRIDS:
        for override in overrides:
            if is_search(override):
                raise UsageError(
                    f"{override.input_line} is only for a search; add search.trials=12, or "
                    "list its values, separated by commas"
                )
        check_run_count(list(overrides))
    is_told = any(one.key_or_group == "hydra.sweeper.direction" for one in overrides)
    if "direction" in cfg.hydra.sweeper and not is_told and find_direction(cfg) is None:
        raise UsageError(
            f"hydra/sweeper={choices['hydra/sweeper']} must know whether a higher {cfg.monitor} is "
            "better; set mode=max or mode=min"
        )
    check_launcher(cfg)
    line = next((str(one.input_line) for one in overrides if one.key_or_group == "n_jobs"), None)
    if line is not None and not _takes_n_jobs(cfg):
        name = choices["hydra/launcher"]
        why = WITHOUT_LIMIT.get(name, "which has no such key")
        raise UsageError(f"{line} does nothing with hydra/launcher={name}, {why}")


def check_launcher(cfg: DictConfig) -> None:
    """Refuse a launcher that finds no cluster here.

    Raises:
        UsageError: naming it, and one that needs none.
    """
    target = OmegaConf.select(cfg, f"hydra.launcher.{TARGET}") or ""
    if target.endswith(".SlurmLauncher") and not shutil.which("srun"):
        raise UsageError(
            f"hydra/launcher={cfg.hydra.runtime.choices['hydra/launcher']} finds no SLURM here: "
            "there is no srun; hydra/launcher=submitit_local runs the jobs on this machine"
        )


def check_processes(cfg: DictConfig) -> None:
    """Refuse a run of several processes where a launcher of others starts it.

    Lightning starts the other processes by the command line, which is that of the whole sweep. On
    SLURM the launcher itself starts them all.

    Raises:
        UsageError: naming what asks for several processes.
    """
    name, trainer = cfg.hydra.runtime.choices["hydra/launcher"], cfg.trainer
    target = str(OmegaConf.select(cfg, f"hydra.launcher.{TARGET}"))
    if name == OWN or target.endswith(".SlurmLauncher"):
        return
    devices, strategy = trainer.get("devices", "auto"), trainer.get("strategy", "auto")
    is_one = str(devices) in ("1", "[0]") and trainer.get("num_nodes", 1) == 1
    if not is_one and (str(devices) != "auto" or str(strategy).startswith(DISTRIBUTED)):
        raise UsageError(
            f"trainer.devices={devices} with hydra/launcher={name}, whose jobs cannot start more "
            "processes; leave the launcher out, or on SLURM use hydra/launcher=submitit_slurm "
            "hydra.launcher.tasks_per_node=..."
        )


def is_search(override: Override) -> bool:
    """Whether only a sweeper that searches knows what an override says."""
    if not override.is_sweep_override():
        return False
    return not override.is_discrete_sweep() or bool(getattr(override.value(), "tags", None))


def _takes_n_jobs(cfg: DictConfig) -> bool:
    name = cfg.hydra.runtime.choices["hydra/launcher"]
    return name == OWN or (name == "basic" and cfg.n_jobs == 1) or _limit(cfg) is not None


def _limit(cfg: DictConfig) -> str | None:
    """The key of a launcher that says how many jobs run at a time."""
    return next((key for key in LIMITS if key in cfg.hydra.launcher), None)


def plugin_lines(cfg: DictConfig, overrides: Sequence[Override]) -> Iterator[str]:
    """Our settings as overrides of the keys that the launcher and the sweeper have for them.

    These are the number of jobs at a time, and whether the metric is to be maximized. What is typed
    for a plugin itself stays as it is.

    Args:
        cfg: of the first run.
        overrides: of the sweep.
    """
    given = {one.key_or_group for one in overrides}
    hydra, choices = cfg.hydra, cfg.hydra.runtime.choices
    found: dict[str, Any] = {}
    if "n_jobs" in given or cfg.n_jobs != 1:
        if choices["hydra/launcher"] != OWN and (key := _limit(cfg)):
            found[f"hydra.launcher.{key}"] = cfg.n_jobs
        if "n_jobs" in hydra.sweeper:  # of trials that are asked for at a time
            found["hydra.sweeper.n_jobs"] = cfg.n_jobs
    if "direction" in hydra.sweeper and find_direction(cfg) == "max":
        found["hydra.sweeper.direction"] = "maximize"
    yield from (f"{key}={value}" for key, value in found.items() if key not in given)
