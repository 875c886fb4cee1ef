"""The one torch scheduler: a curve drives the lr of every group, and what moves along with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_optim.errors import UsageError
from lit_optim.schedules.moved import Moved
from lit_optim.schedules.schedule import Curve


class ScheduledLR(LRScheduler):
    """lr of a group = what the curve makes of its own lr, after the updates made so far.

    Remembers the count of updates, and what the curve remembers. `step` counts only where an update
    happened since the last one: a skipped step (None loss, GradScaler overflow) does not move the
    schedule.

    Args:
        optimizer: the ratios between its groups are kept.
        curve: the lr of each update. Where it moves `momentum` along, that is the momentum of a
            group, if it has one > 0, else the first of its betas; a group with neither is left.
        moved: other hyperparameters, at the same updates.

    Raises:
        ValueError: curve and `moved` move the same.
    """

    def __init__(self, optimizer: Optimizer, curve: Curve, moved: Sequence[Moved] = ()) -> None:
        self.curve, self.moved = curve, tuple(moved)
        if "momentum" in curve.others and any(one.key in MOMENTUM for one in moved):
            raise UsageError(
                "schedules.momentum: the scheduler moves momentum itself; scheduler.momentum=null "
                "leaves it alone"
            )
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
        self._apply()

    def refresh(self) -> None:
        """Put the values of this update into the groups again, whose own may have changed."""
        self._apply()

    def observe(self, metric: float) -> None:
        """Tell a curve that follows a metric its new value."""
        self.curve.observe(metric)
        self._apply()

    def _apply(self) -> None:
        t = self.last_epoch
        others = {name: curve(t) for name, curve in self.curve.others.items()}
        lrs: dict[float, float] = {}  # by a group's own: most groups share it
        for group in self.optimizer.param_groups:  # a group added on the way has its own lr
            own = group.setdefault("initial_lr", group["lr"])
            if own not in lrs:
                lrs[own] = self.curve(t, own)
            group["lr"] = lrs[own]
            for name, value in others.items():
                _put(group, name, value)
        if self.moved:
            of_lr = [factor(group) for group in self.optimizer.param_groups]
            for one in self.moved:
                one.put(self.optimizer, t, of_lr)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain values: how many updates were made, of how many, and what the curve remembers."""
        state: dict[str, Any] = {"last_epoch": self.last_epoch, "total": self.curve.total}
        if self.moved:
            state["moved"] = self._lengths()
        remembered = self.curve.state_dict()
        return state | ({"curve": remembered} if remembered else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved update.

        Raises:
            ValueError: the schedule that was saved had another length.
        """
        total = state_dict["total"]  # None: any other length is meant
        if total is not None and self.curve.bounded and total != self.curve.total:
            raise UsageError(
                f"the checkpoint's schedule has {total} steps, this one {self.curve.total}"
            )
        before, now = state_dict.get("moved", {}), self._lengths()
        if total is not None and before != now:
            raise UsageError(
                f"the checkpoint's schedules are {before or 'none'} (with their steps), "
                f"these {now or 'none'}"
            )
        self.last_epoch = state_dict["last_epoch"]
        if "curve" in state_dict:
            self.curve.load_state_dict(state_dict["curve"])
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _lengths(self) -> dict[str, int]:
        """The steps of each other schedule; of one that follows the lr, the lr's."""
        return {one.path: (one.curve or self.curve).total for one in self.moved}


#: What a curve moves along with the lr as `momentum`.
MOMENTUM = ("momentum", "betas.0")


def factor(group: dict[str, Any]) -> float:
    """The lr as a multiple of the group's own."""
    own = group["initial_lr"]
    return float(group["lr"] / own) if own else 1.0


def _put(group: dict[str, Any], name: str, value: float) -> None:
    if math.isnan(value):  # a part of a sequence that moves nothing else than the lr
        return
    if group.get(name):
        group[name] = value
    elif name == "momentum" and "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
