"""The top-level keys that are not groups. Defaults and explanations stand in `conf/train.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from lit_optim.schedules.durations import Duration


class Settings:
    """Types and ranges of the settings, read as a constructor's are."""

    def __init__(
        self,
        train: bool,
        test: bool,
        ckpt: str | None,
        weights: str | None,
        seed: Annotated[int, "in [0, 4294967295]"],
        monitor: str | None,
        mode: Literal["min", "max"] | None,
        allow: list[str] | str,
        schedules: dict[str, Any],
        resume: dict[str, Any],
        branch_from: str | None,
        cooldown: Duration,
        n_jobs: Annotated[int, "> 0"],
        threads: Annotated[int, "in [1, 1024]"] | None,
    ) -> None:
        raise NotImplementedError("a declaration, not a class to make objects of")
