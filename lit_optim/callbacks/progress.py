"""One bar for the whole run, in updates."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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

from lit_optim.training.lengths import total_updates


class RunProgress(ProgressBar):
    """Steps done of all steps, time passed and left, and the metrics logged with `prog_bar=True`.

    A bar per epoch says little about a run that is counted in steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._enabled = True
        self._redirected = ExitStack()

    def enable(self) -> None:
        """Called by Lightning on the first rank."""
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on the other ranks."""
        self._enabled = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not self._enabled or self._progress is not None:
            return  # not before: other callbacks print tables when the training starts
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            refresh_per_second=4,  # drawing takes a millisecond of the training
            redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays there
        )
        self._task = self._progress.add_task("", total=total_updates(trainer))
        self._redirected.enter_context(logs_above(self._progress.console))
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
        self._redirected.close()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Above:
    """A stream that prints whole lines above the bar of a console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        if text.strip("\n"):
            line = text.rstrip("\n")
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)
        return len(text)

    def flush(self) -> None:
        self._console.file.flush()


@contextmanager
def logs_above(console: Console) -> Iterator[None]:
    """Print what is logged to a terminal above the bar, which it would tear apart.

    Rich does so for `print`; handlers of logging keep the stream that they were made with. To be
    entered before the bar is started.
    """
    moved: list[tuple[logging.StreamHandler[Any], Any]] = []
    if console.is_terminal:
        known = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
        for handler in {h for logger in (logging.root, *known) for h in logger.handlers}:
            is_ours = getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
            if isinstance(handler, logging.StreamHandler) and is_ours and handler.stream.isatty():
                moved.append((handler, handler.setStream(_Above(console))))
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
