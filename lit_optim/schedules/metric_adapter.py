"""`MetricScheduledLR`: a schedule that responds to a metric, in place of ReduceLROnPlateau."""

from __future__ import annotations

import math
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from typing_extensions import override

from lit_optim.errors import UsageError, show
from lit_optim.hyperparameters import accepts, plain
from lit_optim.schedules.adapter import ScheduledLR


class MetricScheduledLR(ScheduledLR, ReduceLROnPlateau):
    """A `ScheduledLR` whose `step` takes the metric, as torch's ReduceLROnPlateau does.

    It is an instance of ReduceLROnPlateau, so that a loop that asks for one passes it the metric.

        for epoch in range(epochs):
            train(...)
            scheduler.step(validate(...))

    A call without a metric only moves the warmup, as in a loop that calls `step` after each update.
    """

    _metric_step = 0  # the update at which the last metric was given

    def step(self, metrics: Any = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Advance by the updates since the last call, and respond to a new value of the metric.

        Args:
            metrics: the value. If the schedule has `every`, values in between are ignored.
            epoch: the update to go to; torch's deprecated argument.

        Raises:
            UsageError: the metric is not a number.
        """
        if metrics is None:
            super().step(epoch)
            return
        try:
            value = plain(metrics)
        except RuntimeError:  # a tensor that has no value
            value = None
        is_nan = isinstance(value, float) and math.isnan(value)  # as of a diverged validation
        if not (accepts(value, float) or is_nan):
            raise UsageError(f"step(metrics): the metric must be a number, got {show(metrics)}")
        super().step(epoch)
        every, before = self.curve.observe_every, self._metric_step
        self._metric_step = self.last_epoch
        if not every or self.last_epoch // every > before // every:
            self.observe(float(value))

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._metric_step = self.last_epoch

    @property
    def best(self) -> float:  # type: ignore[override]
        """The best value of the metric so far."""
        return float(self._curve.best.best)

    @property
    def num_bad_epochs(self) -> int:  # type: ignore[override]
        """The values in a row that did not improve on the best one."""
        return int(self._curve.best.bad)

    @property
    def cooldown_counter(self) -> int:  # type: ignore[override]
        """The values that will be ignored."""
        return int(self._curve.wait)

    @property
    def _curve(self) -> Any:
        """A `MetricCurve`, in whose module schedules are made, which may import this one."""
        return self.curve
