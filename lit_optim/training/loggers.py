"""What this package sets on Lightning's loggers, and why no argument or hook would do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from lit_optim.lightning_classes import Logger, Trainer, is_a, variants
from lit_optim.training.cards import card_tag

LOG = logging.getLogger("lit_optim")

#: The methods of a logger that write.
WRITES = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize")
#: The methods of a file of TensorBoard's that write.
WRITES_OF_FILE = ("add_event", "flush", "close")
#: After this many seconds the thread that writes TensorBoard's events flushes them.
FLUSH_SECONDS = 1


def choose_cards(logger: Logger) -> None:
    """Let the cards of TensorBoard begin with curves: no `epoch`, and metrics of tests come last.

    Why: Lightning logs the epoch with everything else. TensorBoard sorts cards by their tag, so
    that `test/acc`, which is a single dot, would come before `train/loss`.
    """
    if not is_a(logger, "loggers.TensorBoardLogger"):
        return
    write = logger.log_metrics

    @wraps(write)
    def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
        kept = {card_tag(name): value for name, value in metrics.items() if name != "epoch"}
        if kept:
            write(kept, step)

    logger.log_metrics = log_metrics


def flush_in_background(logger: Any) -> None:
    """Let the thread that writes TensorBoard's events flush them, within a second.

    Why: after each logged step Lightning flushes them and waits for that thread meanwhile, which
    takes several steps of a tiny model. `flush_loggers` flushes at once.
    """
    usual = [kind.save for kind in variants("loggers.TensorBoardLogger")]
    if type(logger).save not in usual or "flush_secs" in logger._kwargs:
        return
    logger._kwargs["flush_secs"] = FLUSH_SECONDS
    save, is_first = logger.save, True

    @wraps(save)
    def save_first_or_now(now: bool = False) -> None:
        nonlocal is_first
        if now or is_first:  # the first time it writes hparams.yaml
            is_first = False
            save()

    logger.save, logger.flushes_late = save_first_or_now, True


def flush_loggers(trainer: Trainer) -> None:
    """Flush what was logged before a checkpoint.

    Why: a run that is killed goes on from the checkpoint, and does not log again what came before.
    """
    logger: Any
    for logger in trainer.loggers:
        if getattr(logger, "flushes_late", False):
            logger.save(now=True)


def tolerate_io_errors(logger: Logger) -> None:
    """Let a logger fall silent, with one warning, where the disk is full or its directory is gone.

    Why: Lightning ends the training with the logger's error, and a class around the logger would
    not be the logger that callbacks look for. What is written without the logger, as by
    `logger.experiment.add_image`, is tolerated from its first own write on.
    """
    errors: list[OSError] = []

    def tolerate(write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def call(*args: Any, **kwargs: Any) -> Any:
            if errors:
                return None
            try:
                return write(*args, **kwargs)
            except Exception as raised:
                if (error := _find_io_error(raised)) is None:
                    raise
                errors.append(error)
                reason = error.strerror or error
                LOG.warning(f"{type(logger).__name__} stops logging: {reason}; training continues")
                return None

        return call

    def tolerate_writer_too(write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return write(*args, **kwargs)
            finally:
                _change_files(getattr(logger, "_experiment", None), tolerate)

        return call

    threading.excepthook = _skip_writer_errors
    for name in WRITES:
        setattr(logger, name, tolerate_writer_too(tolerate(getattr(logger, name))))


def _change_files(writer: Any, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Change how a writer of TensorBoard writes its files, of which it has one after another.

    A module or a callback may write there without the logger, as in `logger.experiment.add_image`.
    """
    if not hasattr(writer, "_get_file_writer") or "_get_file_writer" in vars(writer):
        return
    usual = writer._get_file_writer

    def changed() -> Any:
        file = usual()
        for name in WRITES_OF_FILE if "add_event" not in vars(file) else ():
            setattr(file, name, change(getattr(file, name)))
        return file

    tolerated = change(changed)
    writer._get_file_writer = lambda: tolerated() or _NoFile()
    if writer.file_writer is not None:
        tolerated()  # the file that is open


class _NoFile:
    """Stands for a file that cannot be written."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _find_io_error(error: BaseException | None) -> OSError | None:
    """The OSError that led to an error; Lightning's TensorBoardLogger makes a ValueError of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


_default_excepthook = threading.excepthook


def _skip_writer_errors(args: threading.ExceptHookArgs) -> None:
    """Print no traceback of the thread in which TensorBoard writes: its logger warns."""
    is_writer = type(args.thread).__name__ == "_AsyncWriterThread"
    if not (is_writer and issubclass(args.exc_type, OSError)):
        _default_excepthook(args)
