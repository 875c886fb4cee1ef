"""Overrides that would change nothing: each is reported in one line, never ignored silently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lit_optim.config.check import BEST
from lit_optim.config.resume_settings import NONE
from lit_optim.config.sweep_settings import OF_THE_SWEEP
from lit_optim.config.targets import TARGET
from lit_optim.errors import UsageError
from lit_optim.sweeps.options import check_options

#: A key that counts only if another one is set.
ONLY_BESIDE = {
    "cooldown": "branch_from",
    "resume.horizon": "resume.from",
    "resume.override": "resume.from",
}
#: A key that counts only if another one has one of these values.
ONLY_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "callbacks.nonfinite.most": ("callbacks.nonfinite.policy", ("skip", "rollback")),
    "data.seed": ("data.shuffle", (True,)),
    "scheduler.gamma": ("scheduler.mode", ("exp_range",)),
    "scheduler.base_momentum": ("scheduler.cycle_momentum", (True,)),
    "scheduler.max_momentum": ("scheduler.cycle_momentum", (True,)),
    "scheduler.window_size": ("scheduler.smooth", (True,)),
    "trainer.limit_train_batches": ("trainer.overfit_batches", (0,)),
    "trainer.limit_val_batches": ("trainer.overfit_batches", (0,)),
    "trainer.limit_test_batches": ("test", (True,)),
}
#: Keys that count only in a sweep.
ONLY_IN_SWEEPS = re.compile(rf"{OF_THE_SWEEP}.*|hydra\.sweep\.dir|hydra\.(launcher|sweeper)\..*")
#: Modules whose callbacks and models never stop a run early, but for `STOPPERS`.
SHIPPED = ("lit_optim.", "lightning.pytorch.callbacks.")
STOPPERS = ("EarlyStopping", "Timer", "OnExceptionCheckpoint")


def check_effects(
    overrides: Sequence[Override], typed: Sequence[Override], cfg: DictConfig, is_multirun: bool
) -> None:
    """Refuse what does nothing.

    Args:
        overrides: all of them.
        typed: those on the command line.
        cfg: what they compose to.
        is_multirun: whether it is a sweep.

    Raises:
        UsageError: naming the override, and what would give it an effect.
    """
    for override in overrides:
        _check_effect(override, cfg)
    for override in typed:
        _check_sweep_key(override, is_multirun)
    _check_launcher(cfg, overrides)


def _check_effect(override: Override, cfg: DictConfig) -> None:
    needed = ONLY_BESIDE.get(override.key_or_group)
    if needed and OmegaConf.select(cfg, needed) in (None, NONE):
        raise UsageError(
            f"{override.input_line} does nothing without {needed.removesuffix('.from')}=..."
        )
    if override.key_or_group in ONLY_WITH and not override.is_delete():
        key, values = ONLY_WITH[override.key_or_group]
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if value is not None and value not in values:
            wanted = " or ".join(f"{key}={str(one).lower()}" for one in values)
            raise UsageError(f"{override.input_line} does nothing without {wanted}")
    is_empty = not override.is_delete() and override.value() == {}
    if is_empty and OmegaConf.select(cfg, override.key_or_group, throw_on_missing=False):
        raise UsageError(
            f"{override.input_line}: a mapping is merged into the present one, so an empty one "
            f"changes nothing; to remove it, use ~{override.key_or_group}"
        )


def _check_sweep_key(override: Override, is_multirun: bool) -> None:
    """Refuse what counts only in a sweep, or only in a single run, in the other one."""
    key = override.key_or_group
    if not is_multirun and ONLY_IN_SWEEPS.fullmatch(key):
        raise UsageError(f"{override.input_line} does nothing without -m")
    if is_multirun and key == "hydra.run.dir":
        raise UsageError(
            f"{override.input_line} does nothing with -m; the directory is hydra.sweep.dir"
        )


def _check_launcher(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    if cfg.hydra.runtime.choices.get("hydra/launcher") != "processes":
        return
    check_options(cfg.hydra.launcher)
    if any(one.key_or_group == "hydra.sweep.subdir" for one in overrides):
        raise UsageError(
            "hydra.sweep.subdir is not used: the directory of a run in a sweep is named after its "
            "overrides; hydra.sweep.dir is where they all are"
        )


def find_unused(typed: Sequence[Override], plain: Mapping[str, Any]) -> Iterator[str]:
    """Warnings about typed overrides that change nothing in this run, one line each.

    They are valid, and may be part of a script that has an effect elsewhere, so they are no errors.

    Args:
        typed: on the command line.
        plain: the configuration as plain containers.
    """
    lines = {one.key_or_group: str(one.input_line) for one in typed if not one.is_delete()}
    trainer = plain["trainer"]
    for key in ("min_epochs", "min_steps"):
        line = lines.get(f"trainer.{key}")
        if line and trainer.get(key) is not None and not _may_stop_early(plain):
            yield f"{line} changes nothing: no callback and no trainer.max_time ends this run early"
    if never := never_validates(trainer):
        monitor = plain["monitor"]
        is_of_training = isinstance(monitor, str) and not monitor.startswith("val")
        if "mode" in lines and plain["mode"] is not None and not is_of_training:
            yield f"{lines['mode']} changes nothing: with {never} there is no validation metric"


def check_best_is_known(plain: Mapping[str, Any]) -> None:
    """Refuse `ckpt=best` in a run that never validates, before it trains.

    Raises:
        UsageError: naming the setting.
    """
    if plain["ckpt"] == BEST and plain["train"] and (never := never_validates(plain["trainer"])):
        raise UsageError(f"ckpt=best needs a validation, but with {never} there is none")


def never_validates(trainer: Mapping[str, Any]) -> str:
    """The setting by which a run never validates; empty if it may."""
    if trainer.get("limit_val_batches") == 0:
        return "trainer.limit_val_batches=0"
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    if isinstance(every, int) and isinstance(epochs, int) and 0 < epochs < every:
        return f"trainer.check_val_every_n_epoch={every} and trainer.max_epochs={epochs}"
    return ""


def _may_stop_early(plain: Mapping[str, Any]) -> bool:
    """Whether something may end the run before its length; the user's own code may."""
    if plain["trainer"].get("max_time") is not None:
        return True
    nodes = [plain["model"], *plain["callbacks"].values()]
    targets = [str(node[TARGET]) for node in nodes]
    return any(not target.startswith(SHIPPED) or target.endswith(STOPPERS) for target in targets)
