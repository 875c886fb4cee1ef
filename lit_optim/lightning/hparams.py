"""Logs the hyperparameters and the final metrics of a run, also if it ends early."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lit_optim.errors import first_line
from lit_optim.lightning.hparams_plugin import Value, columns, session_end, session_start
from lit_optim.lightning_classes import Callback, LightningModule, Logger, Trainer, is_a
from lit_optim.training.cards import card_tag

LOG = logging.getLogger("lit_optim")

#: The arguments of loggers that name a run.
RUN_NAMES = ("run_name", "name")


@dataclass(frozen=True)
class Hyperparameters:
    """What loggers get to know about a run.

    Args:
        values: choices, typed values and all others, by their dotted keys.
        shown: the columns of TensorBoard's table with their values: what a sweep varies; of a
            single run what was chosen and typed.
        domains: of texts among `shown`, the values in all runs of the sweep.
        is_in_sweep: whether other runs are compared with this one; what none of them varies is
            then no column.
        group: the same for runs that differ in nothing but their seed; a few readable words.
        monitor: the metric that comes first.
        has_test: whether metrics of a test will follow, with the names of the validation's.
    """

    values: Mapping[str, Value]
    shown: Mapping[str, Value]
    group: str
    monitor: str
    has_test: bool = False
    is_in_sweep: bool = False
    domains: Mapping[str, Sequence[str]] = field(default_factory=dict)


class HyperparameterLog(Callback):
    """Logs the hyperparameters of a run when it starts, and how it ended.

    TensorBoard gets them in the format of its HPARAMS plugin. It shows the last points of the
    curves as metrics, so that they need no points of their own. Other loggers get the final and
    the best metrics at the end.
    """

    def __init__(self) -> None:
        self._loggers: list[Logger] = []
        self._hparams: Hyperparameters | None = None  # until the columns are written

    def start(self, loggers: Sequence[Logger], hparams: Hyperparameters) -> None:
        """Log the hyperparameters, before training."""
        self._loggers, self._hparams = list(loggers), hparams
        values = dict(hparams.values)
        for logger in self._loggers:
            with _tolerate_errors(logger):
                if not is_a(logger, "loggers.TensorBoardLogger"):
                    logger.log_hyperparams(values)
                    continue
                logger.log_hyperparams(values, {})  # for hparams.yaml; it writes no summary
                _write(logger, session_start(values | dict(hparams.shown), hparams.group))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the columns once the metrics are known, which is in the sanity check."""
        if self._hparams is not None:
            self._write_columns([name for name in trainer.logged_metrics if name[:3] == "val"])

    def _write_columns(self, found: Sequence[str]) -> None:
        hparams, self._hparams = self._hparams, None
        if hparams is None:
            return
        metrics = list(dict.fromkeys([hparams.monitor, *found]))
        if hparams.has_test:
            validated = [name for name in metrics if name.startswith("val")]
            metrics += [card_tag(name.replace("val", "test", 1)) for name in validated]
        hidden = {} if hparams.is_in_sweep else hparams.values
        others = {key: value for key, value in hidden.items() if key not in hparams.shown}
        for logger in self._loggers:
            if is_a(logger, "loggers.TensorBoardLogger"):
                tags = [f"{prefix}-{tag}" if (prefix := logger._prefix) else tag for tag in metrics]
                with _tolerate_errors(logger):
                    _write(logger, columns(hparams.shown, hparams.domains, others, tags))

    def end(self, metrics: Mapping[str, float], step: int, succeeded: bool | None) -> None:
        """Log the final metrics, and how the run ended.

        Args:
            metrics: by name.
            step: the number of updates.
            succeeded: whether the run succeeded; None: it was interrupted, and may be resumed.
        """
        self._write_columns([])
        for logger in self._loggers:
            with _tolerate_errors(logger):
                is_board = is_a(logger, "loggers.TensorBoardLogger")
                if metrics and not is_board:
                    logger.log_metrics(dict(metrics), step=step)
                if is_board and succeeded is not None:
                    _write(logger, session_end(succeeded))
                logger.finalize("success" if succeeded else "failed")
                if is_a(logger, "loggers.TensorBoardLogger"):
                    logger.experiment.flush()


def run_name_argument(kind: type, given: Mapping[str, Any]) -> str | None:
    """Return the argument of a logger's class that names a run, if it was left open.

    An argument with a default is none of these: TensorBoard's and CSV's `name` is a directory.
    """
    parameters = inspect.signature(kind).parameters
    for name in RUN_NAMES:
        if name in parameters and parameters[name].default is None and given.get(name) is None:
            return name
    return None


def _write(logger: Any, summary: Any) -> None:
    logger.experiment._get_file_writer().add_summary(summary)
    logger.experiment.flush()


@contextmanager
def _tolerate_errors(logger: Logger) -> Iterator[None]:
    """Warn if a logger takes no hyperparameters or cannot reach its server."""
    try:
        yield
    except Exception as error:
        name = type(logger).__name__
        LOG.warning(f"{name} did not accept the hyperparameters or metrics: {first_line(error)}")
