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

import torch
import torch.distributed as dist

from lit_optim.callbacks.ranks import end_others
from lit_optim.environment import is_first
from lit_optim.lightning_classes import (
    Callback,
    LightningModule,
    Trainer,
    TrainerFn,
    variant_for,
)
from lit_optim.streams import sign
from lit_optim.system import call_after_fork
from lit_optim.training.lengths import has_reached_max_steps, is_at_end
from lit_optim.training.overrides import answer_sigterm, call_other_handlers, end_after_batch

Handler = Callable[[int, "FrameType | None"], Any]
#: Modules of the handlers of a run.
OF_A_RUN = ("lightning.", "pytorch_lightning.", "lit_optim.")
#: How long to wait for the end of an update of several batches.
MAX_WAIT_SECONDS = 10.0


class Signals(Callback):
    """Ends training between two updates after Ctrl-C or SIGTERM, and at once after a second one.

    The current update is finished first, so that no checkpoint has partly updated weights or lacks
    accumulated gradients; and the batch with all of its hooks, so that none is fetched that a
    resumed run would miss. Lightning ignores a second Ctrl-C, and treats a second SIGTERM like the
    first. A checkpoint that is being written at the second signal stays incomplete; the previous
    one is whole.

    Several processes end after the same update, whichever of them the signal reaches: after each
    update, and at each batch of a validation, they tell each other. Where nothing is trained, as in
    a test, SIGTERM ends all of them at once.
    """

    def __init__(self) -> None:
        #: The time of Ctrl-C; None before it.
        self.interrupted_at: float | None = None
        #: The time of SIGTERM.
        self.terminated_at: float | None = None
        #: Whether all processes of several end after the same update.
        self.has_agreed = False
        self._call_others: Callable[[], Any] | None = None  # handlers that others had set before
        #: At how many more batches of this validation all processes are.
        self._common_batches = 0

    @property
    def _is_given(self) -> bool:
        return self.interrupted_at is not None or self.terminated_at is not None

    @property
    def _is_late(self) -> bool:
        times = [at for at in (self.interrupted_at, self.terminated_at) if at is not None]
        return any(time.monotonic() - at > MAX_WAIT_SECONDS for at in times)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            answer_sigterm(trainer, partial(self._end_without_training, trainer))

    def _end_without_training(self, trainer: Trainer, number: int, frame: FrameType | None) -> None:
        signal.signal(number, _exit_at_once)
        self.terminated_at = time.monotonic()
        end_others(trainer, number)
        self._raise(trainer)

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
            self.terminated_at = time.monotonic()
            self._call_others = partial(call_other_handlers, trainer, first, number, frame)

        return handle

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not (self._is_given or trainer.world_size > 1) or has_reached_max_steps(trainer):
            return
        is_between = not trainer.fit_loop.epoch_loop._should_accumulate()
        if trainer.world_size > 1:
            ends = is_between and self._agree(trainer)
        else:
            ends = is_between or self._is_late
        if ends:
            self._end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # rather than after the next update: any loader can resume at the beginning of an epoch
        if not is_at_end(trainer) and (
            self._agree(trainer) if trainer.world_size > 1 else self._is_given
        ):
            self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        self._tell_others()
        end_after_batch(trainer)

    def _agree(self, trainer: Trainer) -> bool:
        """Whether a signal has reached any of several processes."""
        given = [self.interrupted_at is not None, self.terminated_at is not None]
        given = _reduce(trainer, given, dist.ReduceOp.MAX)
        if given[0]:
            self.interrupted_at = self.interrupted_at or time.monotonic()
        if given[1]:
            self.terminated_at = self.terminated_at or time.monotonic()
        self.has_agreed = any(given)
        return self.has_agreed

    def _tell_others(self) -> None:
        call, self._call_others = self._call_others, None
        if call is not None:
            call()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._common_batches = 0
        if trainer.world_size > 1 and trainer.state.fn == TrainerFn.FITTING:
            batches = sum(trainer.fit_loop.epoch_loop.val_loop.max_batches)
            known = -1 if batches == float("inf") else int(batches)
            (self._common_batches,) = _reduce(trainer, [known], dist.ReduceOp.MIN)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.world_size > 1:
            self._common_batches -= 1
            is_common = self._common_batches >= 0 and not trainer.sanity_checking
            ends = is_common and _is_between_updates(trainer) and self._agree(trainer)
        else:
            ends = self._is_given and (self._is_late or _is_between_updates(trainer))
        if ends:
            self._raise(trainer)

    def _raise(self, trainer: Trainer) -> None:
        self._tell_others()
        if self.interrupted_at is not None:
            raise KeyboardInterrupt
        raise variant_for(trainer, "utilities.exceptions.SIGTERMException")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_if_given(trainer)  # during the last batch
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_if_given(trainer)  # while the last checkpoint was written

    def _end_if_given(self, trainer: Trainer) -> None:
        """End where all processes are, and nothing is left to be trained."""
        if self._agree(trainer) if trainer.world_size > 1 else self._is_given:
            self._raise(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.interrupted_at is not None:
            signal.signal(signal.SIGINT, _exit_at_once)


def _reduce(trainer: Trainer, values: list[Any], how: Any) -> list[Any]:
    """Reduce the values of several processes, which call it together."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    reduced = torch.tensor(values, dtype=torch.int32, device=trainer.strategy.root_device)
    dist.all_reduce(reduced, how)
    return reduced.tolist()


def _is_between_updates(trainer: Trainer) -> bool:
    # after the last update only a validation is left, which a resumed run would not repeat
    return not (has_reached_max_steps(trainer) or trainer.fit_loop.epoch_loop._should_accumulate())


def _signals_of(trainer: Trainer) -> list[Signals]:
    return [one for one in trainer.callbacks if isinstance(one, Signals)]  # type: ignore[attr-defined]


def is_interrupted(trainer: Trainer) -> bool:
    """Whether Ctrl-C was pressed during training, which explains a failure after it."""
    return any(one.interrupted_at is not None for one in _signals_of(trainer))


def is_terminated(trainer: Trainer) -> bool:
    """Whether SIGTERM has come, which also explains it."""
    return any(one.terminated_at is not None for one in _signals_of(trainer))


def have_agreed(trainer: Trainer) -> bool:
    """Whether several processes end together, so that they can save a checkpoint together."""
    return any(one.has_agreed for one in _signals_of(trainer))


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    if is_first():
        print(f"\n{sign('ended at once')}", file=sys.stderr, flush=True)
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
