"""One bar for the whole run, in updates."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RunProgress(ProgressBar):
    """Steps done of all steps, time passed and left, and the metrics logged with `prog_bar=True`.

    A bar per epoch says little about a run that is counted in steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._enabled = True

    def enable(self) -> None:
        """Called by Lightning on the first rank."""
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on the other ranks."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not self._enabled:
            return
        steps = trainer.estimated_stepping_batches  # the smaller of max_steps and max_epochs
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            refresh_per_second=4,  # drawing takes a millisecond of the training
        )
        total = steps if math.isfinite(steps) and steps > 0 else None
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is None:
            return
        step = trainer.global_step
        self._progress.update(self._task, completed=step)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        # a model may log a step after us, when it has ended
        if every and step > 1 and (step - 1) % every == 0:
            self._tell(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._progress is not None:
            self._tell(trainer)
        self._stop()

    def on_exception(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _tell(self, trainer: Trainer) -> None:
        """Read the metrics: it may wait for the device, so not at every step."""
        assert self._progress is not None
        metrics = trainer.progress_bar_metrics.items()
        told = " ".join(f"{name} {value:.3f}" for name, value in metrics if name != "v_num")
        self._progress.update(self._task, description=told)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
