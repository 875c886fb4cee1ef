"""The top-level keys that are not groups. `conf/train.yaml` has their defaults and comments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lit_optim.schedules.durations import Duration


@dataclass(frozen=True)
class Settings:
    """The types and ranges of the settings, which `check_config` reads."""

    train: bool
    test: bool
    ckpt: str | None
    weights: str | None
    seed: Annotated[int, "in [0, 4294967295]"]
    monitor: str | None
    mode: Literal["min", "max"] | None
    allow: list[str] | str
    schedules: dict[str, Any]
    resume: dict[str, Any]
    branch_from: str | None
    cooldown: Duration
    n_jobs: Annotated[int, "> 0"]
