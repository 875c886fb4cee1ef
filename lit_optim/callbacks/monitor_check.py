"""Refuses a monitored metric that is not logged, or whose direction is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_optim.lightning_classes import Callback, LightningModule, Trainer, TrainerFn
from lit_optim.training.monitor import (
    is_settled,
    require_direction,
    require_logged,
    set_direction,
)


class MonitorCheck(Callback):
    """Refuses a monitored metric that is not logged, or whose direction is unknown.

    It checks the metrics of the first validation: of the sanity check before training or, in a
    resumed run, of the first validation after that.

    Args:
        watched: the monitored metrics, each with the key of the configuration that names it.
        undirected: callbacks without a `mode`; they get the direction of their metric.
        mode_keys: of the metrics of these callbacks, the key that sets the direction.

    Raises:
        UsageError: a metric is not logged, or its direction is unknown.
    """

    def __init__(
        self,
        watched: Mapping[str, str],
        undirected: Sequence[Callback] = (),
        mode_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.watched = dict(watched)
        self.undirected = list(undirected)
        self.mode_keys = dict(mode_keys or {})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for name, key in list(self.watched.items()):
            if require_logged(trainer, name, key):
                del self.watched[name]
        for callback in list(self.undirected):
            name = str(callback.monitor)  # type: ignore[attr-defined]
            if is_settled(trainer, name):
                key = self.mode_keys.get(name, "mode")
                set_direction(callback, require_direction(trainer, name, key))
                self.undirected.remove(callback)
