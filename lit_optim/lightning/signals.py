"""A signal lets a run write its checkpoint and end; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_optim.environment import is_first

#: That an update which has begun may take to be finished, where it takes several batches.
MAX_WAIT_SECONDS = 10.0


class Signals(Callback):
    """Ends training between two batches after Ctrl-C, and at once after a second one.

    An update that has begun is made first, so that no checkpoint has weights that are half updated
    or lacks gradients that are half accumulated. Lightning itself is deaf to a second Ctrl-C, and
    takes a second SIGTERM as it took the first. What was being written then is left behind
    unfinished; the checkpoint before is whole.
    """

    def __init__(self) -> None:
        #: When Ctrl-C has come; None where it has not.
        self.interrupted_at: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if threading.current_thread() is not threading.main_thread():
            return
        first = signal.getsignal(signal.SIGTERM)
        if callable(first):
            signal.signal(signal.SIGTERM, _then_at_once(first))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted_at = time.monotonic()
        signal.signal(number, _at_once)

    def on_train_batch_start(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.interrupted_at is None:
            return
        between = batch_idx % trainer.accumulate_grad_batches == 0
        if between or time.monotonic() - self.interrupted_at > MAX_WAIT_SECONDS:
            raise KeyboardInterrupt

    def on_validation_batch_start(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.interrupted_at is not None:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self.interrupted_at is not None:  # within the last batch
            raise KeyboardInterrupt
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_exception(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, _at_once)


def is_interrupted(trainer: Trainer) -> bool:
    """Whether Ctrl-C has come while training; what fails then fails for that reason."""
    signals = [c for c in trainer.callbacks if isinstance(c, Signals)]  # type: ignore[attr-defined]
    return any(callback.interrupted_at is not None for callback in signals)


def _then_at_once(first: Callable[[int, FrameType | None], Any]) -> Callable[..., Any]:
    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, _at_once)
        first(number, frame)

    return handle


def _at_once(number: int, frame: FrameType | None) -> None:
    if is_first():
        print("\nlit_optim: ended at once", file=sys.stderr, flush=True)
    os._exit(128 + number)
