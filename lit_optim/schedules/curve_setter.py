"""Sets the hyperparameters of an optimizer to the values of curves."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.group_lrs import (
    copy_lr,
    get_lr,
    lr_factor,
    read_lr,
    set_hyperparameter,
    set_lr,
)
from lit_optim.schedules.scheduled_hyperparameter import ScheduledHyperparameter


class CurveSetter:
    """The part of `ScheduledLR` that knows param groups and curves, but not when they move on."""

    optimizer: Optimizer
    #: the lr at each update
    curve: Curve
    #: other hyperparameters, set at the same updates
    hyperparameters: tuple[ScheduledHyperparameter, ...]
    #: what `load_state_dict` does if the saved schedule had another length
    horizon: HorizonPolicy
    #: the update that comes next
    last_epoch: int
    _last_lr: list[float | Tensor]
    #: by index of a group: the factor by which other code changed its lr
    _factors: dict[int, float]
    #: the lrs as set by the last step; None for a tensor on a GPU
    _set_lrs: list[float | None]

    def lrs_at(self, t: int) -> list[float]:
        """The lr of each group at update t = 0, 1, ..."""
        by_base: dict[float, float] = {}  # most groups share a base lr
        lrs = []
        for index, group in enumerate(self.optimizer.param_groups):
            if "initial_lr" not in group:  # a group that was added later
                group["initial_lr"] = copy_lr(group["lr"])
            base = float(group["initial_lr"])
            if base not in by_base:
                by_base[base] = self.curve(t, base)
            lrs.append(by_base[base] * self._factors.get(index, 1.0))
        return lrs

    def _apply(self) -> None:
        t, curves = self.last_epoch, self.curve.hyperparameter_curves
        values = {name: curve(t) for name, curve in curves.items()} if curves else {}
        for group, lr in zip(self.optimizer.param_groups, self.lrs_at(t), strict=True):
            set_lr(group, lr)
            for name, value in values.items():
                set_hyperparameter(group, name, value)
        if self.hyperparameters:
            lr_factors = [lr_factor(group) for group in self.optimizer.param_groups]
            for scheduled in self.hyperparameters:
                scheduled.apply(self.optimizer, t, lr_factors)
        self._record_lrs()

    def _record_lrs(self) -> None:
        """Record the current lrs, to notice later if other code changes them."""
        lrs = list(map(get_lr, self.optimizer.param_groups))
        are_numbers = {*map(type, lrs)} == {float}
        self._last_lr = list(lrs) if are_numbers else list(map(copy_lr, lrs))
        self._set_lrs = lrs if are_numbers else self._read_lrs()

    def _read_lrs(self) -> list[float | None]:
        return [read_lr(group["lr"]) for group in self.optimizer.param_groups]

    def _load_lengths(self, state_dict: dict[str, Any]) -> None:
        """Compare the saved lengths with the new ones, or restore them."""
        total = state_dict["total"]
        if total is None or self.horizon == "extend":  # another length is intended
            return
        saved, new = state_dict.get("moved", {}), self._lengths()
        if saved.keys() != new.keys():
            raise UsageError(
                f"the checkpoint's schedules are {saved or 'none'} (with their steps), "
                f"these {new or 'none'}"
            )
        if total != self.curve.total and self.curve.depends_on_length:
            self.curve = self._restore_length("schedule", self.curve, total)
        for scheduled in self.hyperparameters:
            length, curve = saved[scheduled.path], scheduled.curve
            if curve is not None and length != curve.total and curve.depends_on_length:
                scheduled.curve = self._restore_length(scheduled.path, curve, length)

    def _restore_length(self, what: str, curve: Curve, total: int) -> Curve:
        if self.horizon == "keep":
            return curve.with_length(total)
        raise UsageError(
            f"the checkpoint's {what} has {total} steps, this one {curve.total}; in Python "
            f'horizon="keep" (an argument of what made the schedule) resumes with '
            f'{total}, horizon="extend" with {curve.total}'
        )

    def set_length(self, steps: int) -> None:
        """Fit the schedule to another length, and every hyperparameter's that had its length.

        Args:
            steps: the updates in the run.

        Raises:
            ValueError: it does not fit.
        """
        before = self.curve.total
        for scheduled in self.hyperparameters:
            if scheduled.curve is not None and scheduled.curve.total == before:
                scheduled.curve = scheduled.curve.with_length(steps)
        self.curve = self.curve.with_length(steps)
        self._apply()

    def _lengths(self) -> dict[str, int]:
        """The steps of each hyperparameter's schedule; without one, of the lr's."""
        return {
            scheduled.path: (scheduled.curve or self.curve).total
            for scheduled in self.hyperparameters
        }
