"""Shows one progress bar for the whole run, in updates."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from lit_optim.lightning_classes import LightningModule, ProgressBar, Trainer
from lit_optim.printing import Console
from lit_optim.training.lengths import total_updates

#: The columns of the bar, at least and at most.
MIN_BAR, MAX_BAR = 8, 40
#: The columns of the counter, of one time, and of everything beside the bar with two metrics.
COUNT_WIDTH, TIME_WIDTH, BESIDE_BAR = 5, 7, 64
#: How often the bar changes.
UPDATES_PER_SECOND = 4


class RunProgress(ProgressBar):
    """Shows updates, elapsed and remaining time, and the metrics logged with `prog_bar=True`.

    A bar per epoch, as Lightning has, says little about a run whose length is in updates.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._enabled = True
        self._step, self._next = 0, 0.0  # the updates so far, and when they are shown again
        self._redirected = ExitStack()

    def enable(self) -> None:
        """Called by Lightning on the first rank."""
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on the other ranks."""
        self._enabled = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled or self._progress is not None:
            return
        # later than on_train_start, in which other callbacks print tables
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(bar_width=max(MIN_BAR, min(MAX_BAR, console.width - BESIDE_BAR))),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=COUNT_WIDTH)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=TIME_WIDTH)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=TIME_WIDTH)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            console=console,
            refresh_per_second=UPDATES_PER_SECOND,  # a redraw costs the training a millisecond
            redirect_stdout=sys.stdout.isatty(),  # output to a file is not redirected
        )
        self._task = self._progress.add_task("", total=total_updates(trainer))
        self._redirected.enter_context(logs_above(console))
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is None:
            return
        self._step = step = trainer.global_step
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1 / UPDATES_PER_SECOND
            self._progress.update(self._task, completed=step)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        # one step later: the module's hook, which may log, comes after the callbacks'
        if every and step > 1 and (step - 1) % every == 0:
            self._show_metrics(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            self._show_metrics(trainer)
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _show_metrics(self, trainer: Trainer) -> None:
        """Show the metrics; reading them may wait for the device, so not at every step."""
        assert self._progress is not None
        metrics = trainer.progress_bar_metrics.items()
        text = " ".join(f"{name} {value:.3f}" for name, value in metrics if name != "v_num")
        self._progress.update(self._task, description=text)

    def _stop(self) -> None:
        self._redirected.close()
        if self._progress is not None:
            self._progress.update(self._task, completed=self._step)
            self._progress.stop()
            self._progress = None


class _PrintAbove:
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
    """Print log records above the bar in a terminal, so that they do not break it.

    Rich does this for `print`, but logging's handlers keep the stream with which they were created.
    Enter this context before the bar starts.
    """
    redirected: list[tuple[logging.StreamHandler[Any], Any]] = []
    if console.is_terminal:
        loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
        for handler in {h for logger in (logging.root, *loggers) for h in logger.handlers}:
            is_standard = getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
            if (
                isinstance(handler, logging.StreamHandler)
                and is_standard
                and handler.stream.isatty()
            ):
                redirected.append((handler, handler.setStream(_PrintAbove(console))))
    try:
        yield
    finally:
        for handler, stream in redirected:
            handler.setStream(stream)
