"""The last and the best value of each validation metric."""

from __future__ import annotations

import math
from typing import Any

from lit_optim.checkpoints.format import are_numbers, check_state, is_number
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, TrainerFn
from lit_optim.metric_names import Direction, best_value
from lit_optim.training.lengths import has_reached_max_steps
from lit_optim.training.monitor import find_direction


class MetricHistory(Callback):
    """Keeps the last and the best value of every validation metric and of `monitor`.

    The torchmetrics class of a metric or its name says whether low or high is better. If neither
    does, the metric has no best value.

    The last update of a run is always followed by a validation (in epochs that have one), so that
    the final metrics are those of the final weights.

    Args:
        monitor: the metric by which the run is judged.
        mode: the direction of `monitor`; None: as for other metrics.
    """

    def __init__(self, monitor: str | None = None, mode: Direction | None = None) -> None:
        self.monitor = monitor
        self.mode = mode
        self.final: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self._directions: dict[str, Direction] = {}  # those that are known
        #: The finite values of `monitor`, that of the untrained model included.
        self._least, self._greatest = math.inf, -math.inf

    def worst(self, mode: Direction) -> float:
        """The worst finite value of `monitor` so far; NaN without one."""
        worst = self._least if mode == "max" else self._greatest
        return worst if math.isfinite(worst) else math.nan

    def state_dict(self) -> dict[str, Any]:
        values = [self._least, self._greatest]
        return {"final": dict(self.final), "best": dict(self.best), "range": values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        kinds = {"final": are_numbers, "best": are_numbers, "range": _is_pair}
        check_state(state_dict, kinds)
        self.final, self.best = dict(state_dict["final"]), dict(state_dict["best"])
        self._least, self._greatest = state_dict.get("range", (math.inf, -math.inf))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if has_reached_max_steps(trainer):
            # at max_steps Lightning skips the validation, but not if should_stop is set
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self.monitor in trainer.callback_metrics:
            value = float(trainer.callback_metrics[self.monitor])
            if math.isfinite(value):
                self._least = min(self._least, value)
                self._greatest = max(self._greatest, value)
        if trainer.sanity_checking:
            return
        for name, metric in trainer.callback_metrics.items():
            if name.startswith("val") or name == self.monitor:
                self.final[name] = new = float(metric)
                mode = self.mode if name == self.monitor else None
                mode = mode or self._directions.get(name) or find_direction(trainer, name)
                if name == self.monitor:
                    self.mode = mode
                if mode is None:
                    continue
                self._directions[name] = mode
                old = self.best.get(name, math.nan)
                self.best[name] = best_value((old, new), mode)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))
