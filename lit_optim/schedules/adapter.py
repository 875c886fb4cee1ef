"""The one torch scheduler: a curve drives the lr of every group, and what moves along with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args
from weakref import ref

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING, LRScheduler

from lit_optim.errors import UsageError, show
from lit_optim.schedules.core import Curve
from lit_optim.schedules.hyperparameter_schedules import Moved
from lit_optim.updates import Updates, count_updates, innermost_optimizer

#: What happens to a schedule that goes on in a run of another length; see `ScheduledLR`.
OtherLength = Literal["error", "keep", "extend"]
#: So many calls of the optimizer's step without any gradient are a mistake.
MOST_WITHOUT_GRADIENT = 3


class ScheduledLR(LRScheduler):
    """lr of a group = what the curve makes of its own lr, after the updates made so far.

    `step` takes the count of updates from the optimizer itself, see `lit_optim.updates`. So a
    skipped step (None loss, GradScaler overflow) does not move the schedule, several calls after
    one update move it once, and one call after several updates moves it by all of them.

    What others have made of the lr (another scheduler in torch's ChainedScheduler, a callback) is
    kept as a factor, as among torch's own schedulers; a factor that comes where the curve is 0 is
    lost. An lr that was set to 0 and is set again later is relative to the curve as any other.

    Args:
        optimizer: the ratios between its groups are kept.
        curve: the lr of each update. Where it moves `momentum` along, that is the momentum of a
            group, if it has one > 0, else the first of its betas; a group with neither is left.
        moved: other hyperparameters, at the same updates.
        horizon: what `load_state_dict` does where the saved schedule had another length, on which
            its values depend: "error" refuses, "keep" goes on with the saved length, "extend" goes
            on at the saved update with this length.

    Raises:
        ValueError: curve and `moved` move the same.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        curve: Curve,
        moved: Sequence[Moved] = (),
        horizon: OtherLength = "error",
    ) -> None:
        self.curve, self.moved = curve, tuple(moved)
        if "momentum" in curve.others and any(one.key in MOMENTUM for one in moved):
            raise UsageError(
                "schedules.momentum: the scheduler moves momentum itself; scheduler.momentum=null "
                "leaves it alone"
            )
        if horizon not in get_args(OtherLength):
            allowed = ", ".join(get_args(OtherLength))
            raise UsageError(f"horizon must be one of {allowed}, got {show(horizon)}")
        self.horizon = horizon
        #: whether `step` warns where it is called before the optimizer's
        self.checks_order = True
        self._follows = False
        self._has_warned = False
        #: by place of a group: what others have multiplied its lr by
        self._factors: dict[int, float] = {}
        #: the lrs as they were last set here; None where they are not looked at
        self._set: list[float | None] = []
        self.optimizer = optimizer
        self._attach(waiting=0)
        super().__init__(optimizer)

    def _attach(self, waiting: int) -> None:
        """Count the updates of the optimizer.

        Args:
            waiting: so many of those made were not taken by `step` yet.
        """
        self._updates = count_updates(self.optimizer)
        self._taken = self._updates.count - waiting
        real, me = innermost_optimizer(self.optimizer), ref(self)

        def loaded(_: Optimizer) -> None:
            scheduler = me()
            if scheduler is not None:
                scheduler._remember()

        if hasattr(real, "_optimizer_load_state_dict_post_hooks"):
            real.register_load_state_dict_post_hook(loaded)

    @property
    def updates(self) -> Updates:
        """The counter of the optimizer's updates."""
        return self._updates

    def follow_updates(self) -> None:
        """Move by itself right after each update, for a loop that does not call `step`."""
        self._follows = True
        self._updates.listen(self)

    def before_update(self, updates: Updates) -> None:
        """Nothing: see `Listener`."""

    def after_update(self, updates: Updates) -> None:
        """Move on; see `follow_updates`."""
        self._advance()

    def step(self, epoch: int | None = None) -> None:
        """Move to the next update, if the last one happened.

        Args:
            epoch: the update to go to, whatever has happened; torch's deprecated argument.

        Raises:
            ValueError: `epoch` is no whole number >= 0.
        """
        is_initial = self._step_count == 0
        if not is_initial and self.checks_order:
            self._check_order()
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
            self._update_lr(epoch)
        elif is_initial:
            self._factors = self._factors_of_others()
            self._move_to(self.last_epoch + 1)
        else:
            self._updates.settle()
            self._advance()

    def _check_order(self) -> None:
        """Warn as torch does of a `step` that comes first, and of updates that never come."""
        made = self._updates.count + self._updates.calls
        message = None
        if self._step_count == 1 and not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            message = (
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler "
                "initialization: updates that it makes are not counted, and do not move the "
                "schedule"
            )
        elif self._step_count == 1 and not made:
            message = (
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: it does not "
                "move the schedule, which follows the updates that the optimizer has made"
            )
        elif not self._updates.count and self._updates.calls >= MOST_WITHOUT_GRADIENT:
            message = (
                f"optimizer.step() was called {self._updates.calls} times, but no parameter had a "
                "gradient: the optimizer has made no update, so the schedule has not moved"
            )
        if message is not None and not (self._step_count > 1 and self._has_warned):
            self._has_warned = self._step_count > 1
            warnings.warn(message, UserWarning, stacklevel=3)

    def _update_lr(self, epoch: int | None = None) -> None:
        """Go to an update; torch's SequentialLR calls it where a schedule begins."""
        if epoch is None:
            self._move_to(self.last_epoch + 1)
            return
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise UsageError(f"step(epoch): epoch must be a whole number >= 0, got {show(epoch)}")
        self._factors = {}
        self._move_to(epoch)

    def _advance(self) -> None:
        made = self._updates.count - self._taken
        if made:
            self._take_changes()
            self._move_to(self.last_epoch + made)

    def _move_to(self, t: int) -> None:
        self._taken = self._updates.count
        self.last_epoch = t
        self._apply()

    def refresh(self) -> None:
        """Put the values of this update into the groups again, whose own may have changed."""
        self._apply()

    def observe(self, metric: float) -> None:
        """Tell a curve that follows a metric its new value."""
        self._take_changes()  # relative to the curve as it was when the lrs were set
        self.curve.observe(metric)
        self._apply()

    def get_lr(self) -> list[float | Tensor]:
        """The lr of each group at this update; as tensors where the groups have tensors."""
        found: list[float | Tensor] = []
        lrs = self.lrs_at(self.last_epoch)
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            now = group["lr"]
            found.append(now.new_full((), lr) if isinstance(now, Tensor) else lr)
        return found

    def lrs_at(self, t: int) -> list[float]:
        """The lr of each group at the update t = 0, 1, ..."""
        lrs: dict[float, float] = {}  # by a group's own: most groups share it
        found = []
        for place, group in enumerate(self.optimizer.param_groups):
            if "initial_lr" not in group:  # a group added on the way has its own lr
                group["initial_lr"] = _copied(group["lr"])
            own = float(group["initial_lr"])
            if own not in lrs:
                lrs[own] = self.curve(t, own)
            found.append(lrs[own] * self._factors.get(place, 1.0))
        return found

    def _apply(self) -> None:
        t = self.last_epoch
        others = {name: curve(t) for name, curve in self.curve.others.items()}
        for group, lr in zip(self.optimizer.param_groups, self.lrs_at(t), strict=True):
            if isinstance(group["lr"], Tensor):  # somebody else may hold it
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
            for name, value in others.items():
                _put(group, name, value)
        if self.moved:
            of_lr = [factor(group) for group in self.optimizer.param_groups]
            for one in self.moved:
                one.put(self.optimizer, t, of_lr)
        self._remember()

    def _remember(self) -> None:
        """The lrs as they are now, to see what others make of them."""
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._last_lr = list(map(_copied, lrs))
        self._set = list(map(_looked_at, lrs))

    def _take_changes(self) -> None:
        """Keep as a factor what others have made of the lrs since they were set here."""
        self._factors = self._factors_now()

    def _factors_now(self) -> dict[int, float]:
        factors = dict(self._factors)
        groups = self.optimizer.param_groups
        for place, (before, group) in enumerate(zip(self._set, groups, strict=False)):
            now = _looked_at(group["lr"])
            if before is None or now is None or now == before:
                continue
            if before:
                factors[place] = factors.get(place, 1.0) * now / before
            elif factors.get(place) == 0:  # set to 0 before: only the curve tells relative to what
                level = self.curve(self.last_epoch, float(group["initial_lr"]))
                factors[place] = now / level if level else 1.0
        return factors

    def _factors_of_others(self) -> dict[int, float]:
        """By place of a group: what a scheduler made before this one has multiplied its lr by.

        Once the optimizer has made updates, it is one whose time is over.
        """
        real = innermost_optimizer(self.optimizer)
        used = self._updates.calls or getattr(real, "_opt_called", False) or real.state
        factors = {}
        for place, group in enumerate(self.optimizer.param_groups):
            lr, own = _looked_at(group["lr"]), _looked_at(group.get("initial_lr", group["lr"]))
            if lr and own and lr != own and not used:
                factors[place] = lr / own
        return factors

    def state_dict(self) -> dict[str, Any]:
        """Plain values: how many updates were made, of how many, and what the curve remembers."""
        state: dict[str, Any] = {"last_epoch": self.last_epoch, "total": self.curve.total}
        if self.moved:
            state["moved"] = self._lengths()
        if factors := self._factors_now():
            state["factors"] = factors
        remembered = self.curve.state_dict()
        return state | ({"curve": remembered} if remembered else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved update.

        Raises:
            ValueError: the schedule that was saved had another length, and `horizon` is "error".
        """
        self._load_lengths(state_dict)
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        self._factors = dict(state_dict.get("factors", {}))
        self._taken = self._updates.count
        if "curve" in state_dict:
            self.curve.load_state_dict(state_dict["curve"])
        self._remember()

    def _load_lengths(self, state_dict: dict[str, Any]) -> None:
        """Hold the saved lengths against these, or take them over."""
        total = state_dict["total"]
        if total is None or self.horizon == "extend":  # any other length is meant
            return
        saved, here = state_dict.get("moved", {}), self._lengths()
        if saved.keys() != here.keys():
            raise UsageError(
                f"the checkpoint's schedules are {saved or 'none'} (with their steps), "
                f"these {here or 'none'}"
            )
        if total != self.curve.total and self.curve.bounded:
            self.curve = self._kept("schedule", self.curve, total)
        for one in self.moved:
            length = saved[one.path]
            if one.curve is not None and length != one.curve.total and one.curve.bounded:
                one.curve = self._kept(one.path, one.curve, length)

    def _kept(self, what: str, curve: Curve, total: int) -> Curve:
        if self.horizon == "keep":
            return curve.with_length(total)
        raise UsageError(
            f"the checkpoint's {what} has {total} steps, this one {curve.total}; in Python "
            f'horizon="keep" (an argument of configure_optimizers and ScheduledLR) goes on with '
            f'{total}, horizon="extend" with {curve.total}'
        )

    def set_length(self, steps: int) -> None:
        """Fit the schedule anew, and those beside it that had its length.

        Args:
            steps: updates in all.

        Raises:
            ValueError: it does not fit.
        """
        before = self.curve.total
        for one in self.moved:
            if one.curve is not None and one.curve.total == before:
                one.curve = one.curve.with_length(steps)
        self.curve = self.curve.with_length(steps)
        self._apply()

    def _lengths(self) -> dict[str, int]:
        """The steps of each other schedule; of one that follows the lr, the lr's."""
        return {one.path: (one.curve or self.curve).total for one in self.moved}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_updates"}
        return state | {"_taken": self._updates.count - self._taken}  # as it is kept: waiting

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attach(waiting=state["_taken"])
        if self._follows:
            self.follow_updates()


#: What a curve moves along with the lr as `momentum`.
MOMENTUM = ("momentum", "betas.0")


def factor(group: dict[str, Any]) -> float:
    """The lr as a multiple of the group's own."""
    own = group["initial_lr"]
    return float(group["lr"] / own) if own else 1.0


def _copied(lr: float | Tensor) -> float | Tensor:
    return lr.clone() if isinstance(lr, Tensor) else lr


def _looked_at(lr: float | Tensor) -> float | None:
    """An lr as a number; None on a GPU, where to look means to wait."""
    if isinstance(lr, Tensor):
        return float(lr) if lr.device.type == "cpu" else None
    return float(lr)


def _put(group: dict[str, Any], name: str, value: float) -> None:
    if math.isnan(value):  # a part of a sequence that moves nothing else than the lr
        return
    if group.get(name):
        group[name] = value
    elif name == "momentum" and "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
