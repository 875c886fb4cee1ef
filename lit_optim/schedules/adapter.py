"""The one torch scheduler: a curve drives the lr of every group."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_optim.errors import UsageError
from lit_optim.schedules.phases import Curve


class ScheduledLR(LRScheduler):
    """lr of a group = its own lr * curve(updates made so far).

    Stateless but for the count of updates. `step` counts only where an update happened since the
    last one: a skipped step (None loss, GradScaler overflow) does not move the schedule.

    Args:
        optimizer: the ratios between its groups are kept.
        curve: the factor of each update.
    """

    def __init__(self, optimizer: Optimizer, curve: Curve) -> None:
        self.curve = curve
        self._updated = False
        super().__init__(optimizer)
        optimizer.register_step_post_hook(self._note_update)

    def _note_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._updated = self._updated or any(
            p.grad is not None for group in optimizer.param_groups for p in group["params"]
        )

    def step(self, epoch: int | None = None) -> None:
        """Move to the next update, if the last one happened."""
        if self.last_epoch >= 0 and not self._updated:
            return
        self._updated = False
        self._step_count += 1
        self.last_epoch += 1
        factor = self.curve(self.last_epoch)
        for group in self.optimizer.param_groups:  # a group added on the way has its own lr
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: how many updates were made, of how many."""
        return {"last_epoch": self.last_epoch, "total": self.curve.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved update.

        Raises:
            ValueError: the schedule that was saved had another length.
        """
        if state_dict["total"] != self.curve.total:
            raise UsageError(
                f"the checkpoint's schedule has {state_dict['total']} steps, "
                f"this one {self.curve.total}"
            )
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
