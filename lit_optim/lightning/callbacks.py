"""What is noted while training: learning rates under stable names, the best of each metric."""

from __future__ import annotations

import math
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lit_optim.optimizers.walk import Walk


class LearningRates(Callback):
    """Logs `lr/<group>`: the lr that update k used, at step k.

    The tag does not depend on the optimizer, so that curves of different runs overlay. The first
    and the last update are always there, between them every `trainer.log_every_n_steps`.
    `effective_lr/<group>` stands beside it where the optimizer scales the lr itself.
    """

    def __init__(self) -> None:
        self._step = -1  # of the update that comes or came last
        self._used: list[float] = []  # the lr of each group at that update
        self._logged = -1

    def on_train_batch_start(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._step:
            return  # accumulating: the update of this step has not happened
        self._step = step
        self._used = [
            group["lr"] for optimizer in trainer.optimizers for group in groups(optimizer)
        ]
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == 0 or (every and (step + 1) % every == 0):
            self._log(trainer, ahead=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._used and self._step != self._logged:
            self._log(trainer, ahead=0)

    def _log(self, trainer: Trainer, ahead: int) -> None:
        """Write the lrs; `ahead` is 1 before the update that uses them and 0 after it."""
        values: dict[str, float] = {}
        lrs = iter(self._used)
        for optimizer in trainer.optimizers:
            for index, group in enumerate(groups(optimizer)):
                name = group.get("name", f"group{index}")
                values[f"lr/{name}"] = lr = float(next(lrs))
                if isinstance(optimizer, Walk):
                    owner = optimizer.owner(group)
                    effective = _effective_lr(owner, group | {"lr": lr}, ahead)
                    if effective != lr:
                        values[f"effective_lr/{name}"] = effective
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self._step)
        self._logged = self._step


def _effective_lr(optimizer: Walk, group: dict[str, Any], ahead: int) -> float:
    """Of the parameter of the group that was stepped most."""
    states = [optimizer.state.get(p, {}) for p in group["params"]]
    state = max(states, key=lambda state: state.get("step", 0))
    carried = {name: state.get(name, first) for name, first in optimizer.carried(group).items()}
    return optimizer.effective_lr(group, max(1, state.get("step", 0) + ahead), carried)


def groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Its param groups that have parameters."""
    return [group for group in optimizer.param_groups if group["params"]]


class MetricHistory(Callback):
    """Keeps the last and the best value of every validation metric and of `monitor`.

    The last update of a run is always followed by a validation (in epochs that have one), so that
    the final metrics are those of the final weights.
    """

    def __init__(self, monitor: str | None = None, mode: str = "max") -> None:
        self.monitor = monitor
        self.mode = mode
        self.final: dict[str, float] = {}
        self.best: dict[str, float] = {}

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            # at max_steps Lightning ends without a validation, but not when it is told to stop
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if trainer.sanity_checking:
            return
        for name, metric in trainer.callback_metrics.items():
            if name.startswith("val") or name == self.monitor:
                self.final[name] = new = float(metric)
                old = self.best.get(name, math.nan)
                mode = self.mode if name == self.monitor else best_mode(name)
                pick = min if mode == "min" else max
                told = [value for value in (old, new) if not math.isnan(value)]
                self.best[name] = pick(told, default=new)


def validates(trainer: Trainer) -> bool:
    """Whether this fit validates at all, told before its first epoch."""
    if not trainer.enable_validation:
        return False
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.setup_data()  # Lightning does it as late as in the first epoch that validates
    return any(loop.max_batches)


def best_mode(metric: str) -> Literal["min", "max"]:
    """Whether a metric of this name is best when "min" or "max"."""
    return "min" if metric.endswith(("loss", "error")) else "max"
