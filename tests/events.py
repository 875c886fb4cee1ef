"""Reads TensorBoard's event files back."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(run_dir: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def hparams(run_dir: Path) -> list[dict[str, object]]:
    """The hyperparameters of every HPARAMS entry in a run's event files."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(run_dir))
    events.Reload()
    found = []
    for tag, content in events.PluginTagToContent("hparams").items():
        if tag == "_hparams_/session_start_info":
            data = plugin_data_pb2.HParamsPluginData.FromString(content)
            values = data.session_start_info.hparams
            found.append({k: getattr(v, v.WhichOneof("kind")) for k, v in values.items()})
    return found
