"""Logs the hyperparameters and the final metrics of a run, also if it ends early."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lit_optim.errors import first_line
from lit_optim.lightning_classes import Logger, is_a

LOG = logging.getLogger("lit_optim")

Value = bool | int | float | str
#: The arguments of loggers that name a run.
RUN_NAMES = ("run_name", "name")


def log_start(loggers: Sequence[Logger], hparams: Mapping[str, Value]) -> None:
    """Log the hyperparameters before training.

    TensorBoard gets them in the format of its HPARAMS plugin, without metrics.
    """
    for logger in loggers:
        with _tolerate_errors(logger):
            if not is_a(logger, "loggers.TensorBoardLogger"):
                logger.log_hyperparams(dict(hparams))
                continue
            logger.log_hyperparams(dict(hparams), {})  # for hparams.yaml; it writes no summary
            _, start, _ = _summaries(hparams, {})
            logger.experiment._get_file_writer().add_summary(start)
            logger.experiment.flush()


def log_end(
    loggers: Sequence[Logger],
    hparams: Mapping[str, Value],
    first: Collection[str],
    metrics: Mapping[str, float],
    step: int,
    succeeded: bool,
) -> None:
    """Log the final metrics, and the columns of TensorBoard's HPARAMS plugin.

    Args:
        loggers: of the run.
        hparams: as in `log_start`.
        first: the hyperparameters whose columns come first.
        metrics: by name.
        step: the number of updates.
        succeeded: whether the run succeeded.
    """
    for logger in loggers:
        with _tolerate_errors(logger):
            if metrics:
                logger.log_metrics(dict(metrics), step=step)
            if is_a(logger, "loggers.TensorBoardLogger"):
                experiment, _, end = _summaries(hparams, metrics, first, succeeded)
                for summary in (experiment, end):
                    logger.experiment._get_file_writer().add_summary(summary, step)
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


def _summaries(
    hparams: Mapping[str, Value],
    metrics: Mapping[str, float],
    first: Collection[str] = (),
    succeeded: bool = True,
) -> tuple[Any, Any, Any]:
    """Return the HPARAMS plugin's summaries of the experiment, the session's start and its end."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from torch.utils.tensorboard.summary import hparams as make_summaries

    experiment, start, end = make_summaries(dict(hparams), dict(metrics))  # type: ignore[no-untyped-call]

    def rewrite(summary: Any, field: str, content: Any) -> None:
        data = plugin_data_pb2.HParamsPluginData(
            version=metadata.PLUGIN_DATA_VERSION, **{field: content}
        )
        summary.value[0].metadata.plugin_data.content = data.SerializeToString()

    columns = plugin_data_pb2.HParamsPluginData.FromString(
        experiment.value[0].metadata.plugin_data.content
    ).experiment
    for info in columns.hparam_infos:
        info.differs = info.name in first  # TensorBoard sorts by this, then by name
    rewrite(experiment, "experiment", columns)
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    rewrite(end, "session_end_info", plugin_data_pb2.SessionEndInfo(status=status))
    return experiment, start, end


@contextmanager
def _tolerate_errors(logger: Logger) -> Iterator[None]:
    """Warn if a logger takes no hyperparameters or cannot reach its server."""
    try:
        yield
    except Exception as error:
        name = type(logger).__name__
        LOG.warning(f"{name} has not taken the hyperparameters or metrics: {first_line(error)}")
