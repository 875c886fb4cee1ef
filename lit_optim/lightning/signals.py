"""A signal lets a run write its checkpoint and end; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_optim.environment import is_first

Handler = Callable[[int, "FrameType | None"], Any]
#: That an update which has begun may take to be finished, where it takes several batches.
MAX_WAIT_SECONDS = 10.0


class Signals(Callback):
    """Ends training between two updates after Ctrl-C or SIGTERM, and at once after a second one.

    An update that has begun is made first, so that no checkpoint has weights that are half updated
    or lacks gradients that are half accumulated. Lightning itself is deaf to a second Ctrl-C, and
    takes a second SIGTERM as it took the first. What was being written then is left behind
    unfinished; the checkpoint before is whole.
    """

    def __init__(self) -> None:
        #: When Ctrl-C has come; None where it has not.
        self.interrupted_at: float | None = None
        self._terminated_at: float | None = None
        self._terminate: Callable[[], Any] | None = None  # Lightning's answer to SIGTERM, put off

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if threading.current_thread() is not threading.main_thread():
            return
        first = signal.getsignal(signal.SIGTERM)
        if callable(first):
            signal.signal(signal.SIGTERM, self._terminates(trainer, first))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def _terminates(self, trainer: Trainer, first: Handler) -> Handler:
        """A handler that lets Lightning end the run after the update that has begun."""

        def handle(number: int, frame: FrameType | None) -> None:
            signal.signal(number, _at_once)
            if trainer.accumulate_grad_batches == 1:  # Lightning waits for the end of the batch
                first(number, frame)
                return
            self._terminated_at = time.monotonic()
            self._terminate = partial(first, number, frame)

        return handle

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._terminate is None or self._terminated_at is None:
            return
        is_made = not trainer.fit_loop.epoch_loop._should_accumulate()
        if is_made or time.monotonic() - self._terminated_at > MAX_WAIT_SECONDS:
            terminate, self._terminate = self._terminate, None
            terminate()  # after the validation that may follow this batch

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
        if self.interrupted_at is None:
            return
        if time.monotonic() - self.interrupted_at > MAX_WAIT_SECONDS:
            raise KeyboardInterrupt
        loop = trainer.fit_loop.epoch_loop
        is_last = 0 < trainer.max_steps <= trainer.global_step  # no resumed run would make it again
        if not is_last and not loop._should_accumulate():
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


def _at_once(number: int, frame: FrameType | None) -> None:
    if is_first():
        print("\nlit_optim: ended at once", file=sys.stderr, flush=True)
    os._exit(128 + number)
