"""A log that can no longer be written is no reason to stop training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning.pytorch.loggers import Logger

LOG = logging.getLogger("lit_optim")

WRITES = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize")


_usual = threading.excepthook


def _hook(args: threading.ExceptHookArgs) -> None:
    """The thread in which TensorBoard writes would print a traceback; its logger tells the rest."""
    writes = type(args.thread).__name__ == "_AsyncWriterThread"
    if not (writes and issubclass(args.exc_type, OSError)):
        _usual(args)


def let_fail(logger: Logger) -> None:
    """Let a logger fall silent, with one warning, where the disk is full or its directory gone."""
    failed: list[OSError] = []

    def forgiving(write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def call(*args: Any, **kwargs: Any) -> Any:
            if failed:
                return None
            try:
                return write(*args, **kwargs)
            except OSError as error:
                failed.append(error)
                why = error.strerror or error
                LOG.warning(f"{type(logger).__name__} writes no more: {why}; training goes on")
                return None

        return call

    threading.excepthook = _hook
    for name in WRITES:
        setattr(logger, name, forgiving(getattr(logger, name)))
