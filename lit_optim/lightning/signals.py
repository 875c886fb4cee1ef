"""A signal lets a run write its checkpoint and end; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_optim.environment import is_first


class Signals(Callback):
    """Lightning itself is deaf to a second Ctrl-C, and takes a second SIGTERM as it took the first.

    What was being written is left behind unfinished; the checkpoint before is whole.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        first = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is threading.main_thread() and callable(first):
            signal.signal(signal.SIGTERM, _then_at_once(first))

    def on_exception(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, _at_once)


def _then_at_once(first: Callable[[int, FrameType | None], Any]) -> Callable[..., Any]:
    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, _at_once)
        first(number, frame)

    return handle


def _at_once(number: int, frame: FrameType | None) -> None:
    if is_first():
        print("\nlit_optim: ended at once", file=sys.stderr, flush=True)
    os._exit(128 + number)
