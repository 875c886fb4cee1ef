"""Ends a run with a checkpoint after a signal, and at once after a second one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from lit_optim.environment import is_first
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, variant_for
from lit_optim.system import call_after_fork
from lit_optim.training.lengths import has_reached_max_steps

Handler = Callable[[int, "FrameType | None"], Any]
#: Modules of the handlers of a run.
OF_A_RUN = ("lightning.", "pytorch_lightning.", "lit_optim.")
#: How long to wait for the end of an update of several batches.
MAX_WAIT_SECONDS = 10.0


class Signals(Callback):
    """Ends training between two updates after Ctrl-C or SIGTERM, and at once after a second one.

    The current update is finished first, so that no checkpoint has partly updated weights or lacks
    accumulated gradients. Lightning ignores a second Ctrl-C, and treats a second SIGTERM like the
    first. A checkpoint that is being written at the second signal stays incomplete; the previous
    one is whole.
    """

    def __init__(self) -> None:
        #: The time of Ctrl-C; None before it.
        self.interrupted_at: float | None = None
        self._terminated_at: float | None = None
        self._terminate: Callable[[], Any] | None = None  # Lightning's SIGTERM handler, postponed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        first = signal.getsignal(signal.SIGTERM)
        if callable(first):
            signal.signal(signal.SIGTERM, self._make_sigterm_handler(trainer, first))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted_at = time.monotonic()
        signal.signal(number, _exit_at_once)

    def _make_sigterm_handler(self, trainer: Trainer, first: Handler) -> Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            signal.signal(number, _exit_at_once)
            if trainer.world_size > 1:  # all ranks must react in the same way
                first(number, frame)
                return
            self._terminated_at = time.monotonic()
            self._terminate = partial(first, number, frame)

        return handle

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._end(batch_idx % trainer.accumulate_grad_batches == 0)
        if trainer.received_sigterm and trainer.world_size == 1:
            # Lightning would train on this batch first, and lose its gradients
            raise variant_for(trainer, "utilities.exceptions.SIGTERMException")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._terminate is not None and not has_reached_max_steps(trainer):
            self._end_by_lightning(not trainer.fit_loop.epoch_loop._should_accumulate())

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.interrupted_at is not None or self._terminate is not None:
            self._end(_is_late(self.interrupted_at) or _is_between_updates(trainer))

    def _end(self, is_between: bool) -> None:
        """React to the signals so far, between two updates or after too long a wait."""
        self._end_by_lightning(is_between)
        if self.interrupted_at is not None and (is_between or _is_late(self.interrupted_at)):
            raise KeyboardInterrupt

    def _end_by_lightning(self, is_between: bool) -> None:
        if self._terminate is not None and (is_between or _is_late(self._terminated_at)):
            terminate, self._terminate = self._terminate, None
            terminate()  # Lightning raises an exception at the end of this batch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.interrupted_at is not None:  # during the last batch
            raise KeyboardInterrupt
        if self._terminate is not None:
            raise variant_for(trainer, "utilities.exceptions.SIGTERMException")
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, _exit_at_once)


def _is_between_updates(trainer: Trainer) -> bool:
    # after the last update only a validation is left, which a resumed run would not repeat
    return not (has_reached_max_steps(trainer) or trainer.fit_loop.epoch_loop._should_accumulate())


def _is_late(since: float | None) -> bool:
    return since is not None and time.monotonic() - since > MAX_WAIT_SECONDS


def is_interrupted(trainer: Trainer) -> bool:
    """Whether Ctrl-C was pressed during training, which explains a failure after it."""
    signals = [c for c in trainer.callbacks if isinstance(c, Signals)]  # type: ignore[attr-defined]
    return any(callback.interrupted_at is not None for callback in signals)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    if is_first():
        print("\nlit_optim: ended at once", file=sys.stderr, flush=True)
    os._exit(128 + number)


def forget_sigterm() -> None:
    """Let SIGTERM end a child of a run, such as a worker of a pool, which inherits its handlers.

    They only note the signal for the run, which the child is not: a pool would wait for it forever.
    """
    module = getattr(signal.getsignal(signal.SIGTERM), "__module__", None) or ""
    if module.startswith(OF_A_RUN):
        with contextlib.suppress(ValueError):  # forked by a thread
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


call_after_fork(forget_sigterm)
