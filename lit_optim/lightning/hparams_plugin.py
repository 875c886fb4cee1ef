"""What TensorBoard's HPARAMS tab reads: the columns, and the start and the end of a session.

TensorBoard calls a run a session. Sessions of one group are a row, with the means of their metrics.
It reads the first of each of these summaries in a run's directory, and the columns of the first
run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lit_optim.training.cards import SORTED_LAST

Value = bool | int | float | str


def session_start(values: Mapping[str, Value], group: str) -> Any:
    """Return the summary of the hyperparameters.

    Args:
        values: by name.
        group: the same for runs that differ in nothing but their seed.
    """
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(group_name=group, start_time_secs=time.time())
    for name, value in values.items():
        kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(start.hparams[name], kind, value)
    return _summary(metadata.SESSION_START_INFO_TAG, session_start_info=start)


def columns(
    first: Mapping[str, Value],
    domains: Mapping[str, Sequence[str]],
    others: Mapping[str, Value],
    metrics: Iterable[str],
) -> Any:
    """Return the summary of the columns; TensorBoard sorts those that come first by their name.

    Args:
        first: what differs between runs, or was chosen or typed, with a value.
        domains: of texts among these, the values in all runs, for the filters beside the table.
        others: further hyperparameters, whose columns are hidden until they are chosen.
        metrics: the tags of curves; their last values are shown.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata

    experiment = api_pb2.Experiment()
    for values, differs in ((first, True), (others, False)):
        for name, value in values.items():
            info = api_pb2.HParamInfo(name=name, type=_kind(value), differs=differs)
            if isinstance(value, str) and value in domains.get(name, ()):
                info.domain_discrete.extend(domains[name])
            experiment.hparam_infos.append(info)
    for tag in metrics:
        name = api_pb2.MetricName(tag=tag)
        info = api_pb2.MetricInfo(name=name, display_name=tag.lstrip(SORTED_LAST))
        experiment.metric_infos.append(info)
    return _summary(metadata.EXPERIMENT_TAG, experiment=experiment)


def session_end(succeeded: bool) -> Any:
    """Return the summary of how a run ended."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, session_end_info=end)


def _kind(value: Value) -> int:
    """Return the type of a hyperparameter, as the plugin numbers them."""
    from tensorboard.plugins.hparams import api_pb2

    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    return int(kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64))


def _summary(tag: str, **content: Any) -> Any:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    value = summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
    return summary_pb2.Summary(value=[value])
