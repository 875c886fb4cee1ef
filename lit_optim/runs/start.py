"""Where a run starts: from scratch, at its own checkpoint, or at that of another run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from lit_optim.callbacks.resumable import Resumable
from lit_optim.checkpoints.files import find_damage, find_newest_intact
from lit_optim.checkpoints.format import check_written
from lit_optim.config.resume_settings import AUTO, NONE
from lit_optim.config.targets import TARGET
from lit_optim.environment import is_first
from lit_optim.errors import UsageError, show
from lit_optim.group_fields import initial_lr
from lit_optim.runs.layout import CHECKPOINTS, CONFIG, RESULT
from lit_optim.runs.record import record_start
from lit_optim.runs.resume import write_fingerprint
from lit_optim.schedules.durations import parse_duration
from lit_optim.temporary import write_whole

LOG = logging.getLogger("lit_optim")
#: A branch below the first fraction of the peak lr would hardly train; above the other, an lr is
#: at its peak.
FAR_BELOW, NEAR_PEAK = 0.05, 0.9


@dataclass
class Start:
    """Where a run starts.

    Args:
        checkpoint: to resume from; None: start from scratch.
        callback: saves and restores what Lightning does not.
    """

    checkpoint: Path | None
    callback: Resumable


def find_start(cfg: DictConfig, run_dir: Path) -> Start:
    """Find where a run starts by `resume` and `branch_from`, and adapt its schedule to that.

    Raises:
        UsageError: no checkpoint can be read, or another version has written it.
    """
    if cfg.branch_from is not None:
        path = Path(cfg.branch_from)
        if (why_not := find_damage(path)) is not None:
            raise UsageError(f"branch_from={path} {why_not}")
        saved = _read_checkpoint(path)
        _check_lr_fraction(path, saved)
        cool_down(cfg, saved)
        _tell_step("branching off", saved)
        return Start(path, Resumable(any_length=True))
    if cfg.resume["from"] in (None, NONE) or cfg.resume["from"] == AUTO:
        return Start(None, Resumable())
    path = find_newest_intact(run_dir / CHECKPOINTS)
    _tell_step("resuming", _read_checkpoint(path))  # refused before anything is built
    fresh = [key.removeprefix("optimizer.") for key in cfg.resume.override
             if key.startswith("optimizer.")]  # fmt: skip
    horizon = cfg.resume.horizon
    return Start(path, Resumable(fresh, horizon == "extend", keeps_length=horizon == "keep"))


def _tell_step(doing: str, saved: Mapping[str, Any]) -> None:
    """Say at which step a run goes on: the command line reads no checkpoint, so it cannot."""
    if is_first():
        LOG.info(f"{doing} at step {show(saved['global_step'])}")  # of any size


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without its tensors."""
    saved: dict[str, Any] = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    check_written(saved)
    return saved


def lr_fraction(saved: Mapping[str, Any]) -> float:
    """The lr in a checkpoint as a fraction of the lr that its schedule scales."""
    try:
        groups = saved["optimizer_states"][0]["param_groups"]
        levels = [group["lr"] / own for group in groups if (own := group.get("initial_lr"))]
        return float(max(levels, default=1.0))
    except (LookupError, TypeError, AttributeError, ValueError):  # of an unknown writer
        raise UsageError("the checkpoint has no optimizer lr to start from") from None


def _check_lr_fraction(path: Path, saved: Mapping[str, Any]) -> None:
    """Refuse a cooldown from a checkpoint whose lr has already decayed.

    Raises:
        UsageError: naming the newest checkpoint in its directory that is from before the decay.
    """
    level = lr_fraction(saved)
    if level >= FAR_BELOW or not saved["global_step"]:
        return
    others = [other for other in path.parent.glob("*.ckpt") if find_damage(other) is None]
    before = [
        (int(there["global_step"]), other)
        for other, there in ((other, _read_checkpoint(other)) for other in others)
        if lr_fraction(there) >= NEAR_PEAK and there["global_step"]
    ]
    step, better = max(before, default=(0, None))
    where = (
        f"; branch from {better}, of update {step}"
        if better
        else "; no earlier checkpoint is kept, so train one with scheduler=constant_warmup"
    )
    raise UsageError(
        f"branch_from={path}: its lr is {100 * level:.3g} % of its peak, so there is nothing to "
        f"cool down from{where}"
    )


def cool_down(cfg: DictConfig, saved: Mapping[str, Any]) -> None:
    """Let a run continue from a checkpoint at its lr, and decay it to 0.

    Args:
        cfg: its scheduler and its length are changed.
        saved: the checkpoint.

    Raises:
        UsageError: it has made no update.
    """
    group, done = saved["optimizer_states"][0]["param_groups"][0], int(saved["global_step"])
    if not done:
        raise UsageError(f"branch_from={cfg.branch_from}: it has made no update")
    level = group["lr"] / initial_lr(group)
    amount, unit = parse_duration("cooldown", cfg.cooldown)
    more = max(1, round(done * amount / (100 - amount)) if unit == "%" else int(amount))
    stable = {"shape": "constant", "from": level, "for": done}
    with open_dict(cfg):
        cfg.scheduler = {
            TARGET: "lit_optim.schedules.phase_parser.phases",
            "phases": [stable, {"shape": "1-sqrt", "to": 0, "for": more}],
        }
        cfg.trainer.max_steps, cfg.trainer.max_epochs = done + more, -1


def record_config(
    cfg: DictConfig, run_dir: Path, plain: Mapping[str, Any], overrides: Sequence[str] = ()
) -> None:
    """Write the fingerprint, the completed configuration and the command that started the run.

    Raises:
        UsageError: nothing can be written there.
    """
    resumed = cfg.resume["from"] not in (None, NONE, AUTO)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_fingerprint(run_dir, plain)
        write_whole(run_dir / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        record_start(run_dir, overrides, resumed)
        (run_dir / RESULT).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{run_dir}: cannot write there: {error.strerror}") from None
