"""`ScheduledLR`: the torch scheduler that sets lrs and other hyperparameters along curves."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, get_args
from weakref import ref

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING, LRScheduler

from lit_optim.errors import UsageError, how_many, show
from lit_optim.schedules.accelerate_steps import count_steps_per_update, is_accumulating
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.scheduled_hyperparameter import ScheduledHyperparameter
from lit_optim.schedules.shared_lrs import SharedLrs
from lit_optim.updates import Updates, count_updates, innermost_optimizer

#: After this many steps of the optimizer without any gradient, warn that it makes no updates.
MAX_STEPS_WITHOUT_GRADIENT = 3
#: A schedule is over for longer than by rounding: accumulation ends early with each epoch.
FAR_OVER = 1.1
#: What `momentum` means in the groups of different optimizers.
MOMENTUM = ("momentum", "betas.0")


class ScheduledLR(SharedLrs, LRScheduler):
    """Sets the lr of every group to curve(updates so far, base lr).

    `step` reads the number of updates from the optimizer; see `lit_optim.updates`. So a skipped
    step (None loss, GradScaler overflow) does not advance the schedule, several calls after one
    update advance it once, and one call after several updates advances it by all of them. Where it
    is not called after an update, the schedule catches up when the next call of the optimizer's
    `step` begins. Within torch's SequentialLR the sequence decides: one call is one step. Where
    accelerate's own scheduler calls it, an update may be several steps: see `accelerate_steps`.

    If other code changes the lr (another scheduler in torch's ChainedScheduler, a callback), the
    change is kept as a factor, as torch's own schedulers do. A change made while the curve is 0 is
    lost. If an lr was set to 0 and is set again later, the new value is relative to the curve. In a
    loop that calls `step`, a schedule does not catch up while other code sets the lr, such as
    torch's SWALR. If other code sets it before the schedule has begun, such as a warmup that the
    loop steps first, the schedule begins at its first `step`.

    Args:
        optimizer: the ratios between the lrs of its groups are preserved.
        curve: the lr at each update. If it also sets `momentum`, that is the momentum of a group
            if it has one > 0, otherwise the first of its betas; other groups are left unchanged.
        hyperparameters: other hyperparameters, set at the same updates.
        horizon: what `load_state_dict` does if the saved schedule had another length, and its
            values depend on the length: "error" raises, "keep" resumes with the saved length,
            "extend" resumes at the saved update with the new length.
        last_epoch: as in torch: the update before the first one, in groups with `initial_lr`.

    Raises:
        ValueError: the curve and `hyperparameters` set the same hyperparameter, or `horizon` or
            `last_epoch` is not what is allowed.
    """

    # here rather than in the constructor for the sake of objects that were pickled before
    #: whether other code moves `last_epoch`: torch's SequentialLR, ignite's LRScheduler
    _is_moved_by_others = False
    #: the number of updates at the last call of `step`
    _count_at_step = 0
    #: `last_epoch` as set here
    _position: int | None = None
    #: whether another scheduler has taken its place: it moves only if `step` is called, and leaves
    #: the lrs alone otherwise
    is_replaced = False
    #: how many steps of the curve an update is, once `step` was called
    _steps_per_update: int | None = None

    def __init__(
        self,
        optimizer: Optimizer,
        curve: Curve,
        hyperparameters: Sequence[ScheduledHyperparameter] = (),
        horizon: HorizonPolicy = "error",
        last_epoch: int = -1,
    ) -> None:
        self.curve, self.hyperparameters = curve, tuple(hyperparameters)
        keys = {scheduled.key for scheduled in hyperparameters}
        if "momentum" in curve.hyperparameter_curves and keys & set(MOMENTUM):
            raise UsageError(
                "schedules.momentum: the scheduler already sets momentum; its argument "
                "momentum=null turns that off"
            )
        if horizon not in get_args(HorizonPolicy):
            allowed = ", ".join(get_args(HorizonPolicy))
            raise UsageError(f"horizon must be one of {allowed}, got {show(horizon)}")
        self.horizon = horizon
        groups = optimizer.param_groups
        if last_epoch != -1:
            _check_last_epoch(last_epoch, groups)
        #: whether `step` warns if it is called before the optimizer's
        self.warns_about_order = True
        self._steps_after_updates = False
        self._has_warned = False
        self._factors, self._set_lrs = {}, []
        self.optimizer = optimizer
        self._attach(waiting=0)
        LRScheduler.__init__(self, optimizer, last_epoch)  # not that of torch's ReduceLROnPlateau

    def __repr__(self) -> str:
        of = self.curve.source[0] if self.curve.source else self.curve
        return f"{type(self).__name__}({of!r}, total={self.curve.total})"

    def _attach(self, waiting: int) -> None:
        """Follow the updates of the optimizer.

        Args:
            waiting: the number of updates that the schedule has not seen yet.
        """
        self._updates = count_updates(self.optimizer)
        self._updates.add_follower(self)
        self._seen = self._updates.count - waiting
        innermost, weak_self = innermost_optimizer(self.optimizer), ref(self)

        def record_loaded_lrs(_: Optimizer) -> None:
            scheduler = weak_self()
            if scheduler is not None:
                scheduler._record_lrs()

        if hasattr(innermost, "_optimizer_load_state_dict_post_hooks"):
            innermost.register_load_state_dict_post_hook(record_loaded_lrs)

    @classmethod
    def __subclasses__(cls) -> list[type]:
        """The subclasses, of which jsonargparse finds one by its bare name.

        Those of `lit_optim.lr_schedulers` are found by dotted names only: torch's StepLR keeps its
        bare one.
        """
        return [one for one in type.__subclasses__(cls) if one.__name__ != "NamedSchedule"]

    @property
    def updates(self) -> Updates:
        """The counter of the optimizer's updates."""
        return self._updates

    def step_after_updates(self) -> None:
        """Step automatically after each update, for a loop that does not call `step`."""
        self._steps_after_updates = True
        self._updates.add_listener(self)

    def before_update(self, updates: Updates) -> None:
        """Do nothing; see `Listener`."""

    def after_update(self, updates: Updates) -> None:
        """Step; see `step_after_updates`."""
        if not self.is_replaced:
            self._advance()

    def _initial_step(self) -> None:
        """Go to the first update; torch's SequentialLR does it a second time."""
        self._is_moved_by_others = hasattr(self, "_last_lr")
        super()._initial_step()

    def step(self, epoch: Any = None, metrics: Any = None) -> None:
        """Advance by the updates that the optimizer has made since the last call.

        Args:
            epoch: the update to go to instead; torch's deprecated argument.
            metrics: not accepted; a schedule that responds to a metric is a `MetricScheduledLR`.

        Raises:
            ValueError: `epoch` is not a whole number >= 0, or a metric is given.
        """
        is_initial = self._step_count == 0
        self._notice_others()
        if metrics is not None:
            self._reject_metric(metrics)
        if not is_initial and self.warns_about_order:
            self._check_order()
        self._step_count += 1
        if self._steps_per_update is None and self._step_count > 1:
            self._count_in_accelerates_steps(sys._getframe(1))
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
            if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
                self._reject_metric(epoch)
            self._jump_to(epoch)
        elif is_initial:
            self._initial = self._initial_factors() if self.last_epoch < 0 else {}
            self._factors = dict(self._initial)
            self._waits = bool(self._factors)
            self._go_to(self.last_epoch + 1)
        elif self._is_moved_by_others:
            if self.last_epoch < 0:  # undone by a sequence around the one that it is in
                self._factors = self._initial_factors()
            else:
                self._keep_changes()
            self._go_to(self.last_epoch + 1)
        else:
            self._was_stepped = True
            self._updates.count_backward_update()
            self._advance()
            self._check_unit()

    def _count_in_accelerates_steps(self, caller: FrameType) -> None:
        """Take an update as several steps where accelerate's scheduler calls `step`."""
        length = self.curve.total if self.curve.depends_on_length else None
        self._steps_per_update = count_steps_per_update(self.optimizer, length, caller)

    def _reject_metric(self, value: Any) -> None:
        if self.curve.metric is None:
            reason = "the schedule responds to no metric"
        else:
            reason = "observe() takes the metric here, and step() of what lit_optim.schedule makes"
        raise UsageError(
            f"step({show(value)}): {reason}, and an epoch must be a whole number >= 0; call step() "
            "without an argument after each update, which it counts"
        )

    def catch_up(self) -> None:
        """Advance by the updates that no call of `step` has followed; `Updates` calls this."""
        self._notice_others()
        if self._is_moved_by_others or self.is_replaced:
            return
        is_steady = self._was_stepped and self._predecessor is None
        if is_steady and self._updates.count == self._seen:
            return  # as after each update of a loop that calls `step`
        self._forget_predecessor()
        if not self._has_begun:
            self._leave_to_others()
            if self._waits:
                return
        if not (self._was_stepped and self._is_set_by_others()):
            self._advance()

    def _notice_others(self) -> None:
        """Notice that other code has moved `last_epoch`: from then on it decides."""
        if self._position not in (None, self.last_epoch):
            self._is_moved_by_others = True

    def _check_order(self) -> None:
        """Warn as torch does about a `step` that comes first, and about updates that never come."""
        unseen = self._updates.count - self._seen  # in a copy, of updates of the original
        attempts = self._updates.count + self._updates.step_calls + unseen
        attempts += self._updates.steps_by_parameter
        message = None
        if self._step_count == 1 and not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            message = (
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler "
                "initialization: its updates are not counted, and do not advance the schedule"
            )
        elif self._step_count == 1 and not attempts and not is_accumulating():
            message = (
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: it does not "
                "advance the schedule, which counts the updates that the optimizer has made"
            )
        elif not self._updates.count and self._updates.step_calls >= MAX_STEPS_WITHOUT_GRADIENT:
            message = (
                f"optimizer.step() was called {self._updates.step_calls} times, but no parameter "
                "had a gradient: the optimizer has made no update, so the schedule has not advanced"
            )
        if message is not None and not (self._step_count > 1 and self._has_warned):
            self._has_warned = self._step_count > 1
            warnings.warn(message, UserWarning, stacklevel=3)

    def _check_unit(self) -> None:
        """Warn of a schedule that is over: of a length in epochs, or with nothing left to learn."""
        new = self._updates.count - self._count_at_step
        self._count_at_step = self._updates.count
        total = self.curve.total
        if self._has_warned or self.last_epoch <= total or not self.curve.depends_on_length:
            return
        if new > 1:
            what = f"step() is called once in {new} updates"
        elif self.last_epoch > FAR_OVER * total + 1 and not any(map(float, self.get_last_lr())):
            what = "the training goes on with an lr of 0"
        else:
            return
        self._has_warned = True
        warnings.warn(
            f"the schedule of {how_many(total, 'step')} is over, and {what}: steps counts updates, "
            "such as epochs * len(loader)",
            UserWarning,
            stacklevel=3,
        )

    def _update_lr(self, epoch: int | None = None) -> None:
        """Go to an update; torch's SequentialLR calls this where a schedule begins."""
        self._is_moved_by_others = True
        self._jump_to(self.last_epoch + 1 if epoch is None else epoch)

    def _jump_to(self, t: int) -> None:
        self._factors = {}
        self._go_to(t)

    def _advance(self) -> None:
        new = self._updates.count - self._seen
        if new:
            self._keep_changes()
            self._go_to(self.last_epoch + new * (self._steps_per_update or 1))

    def _go_to(self, t: int) -> None:
        self._seen = self._updates.count
        self.last_epoch = self._position = t
        self._apply()

    def refresh(self) -> None:
        """Set the values of this update again, after base values of groups have changed."""
        self._apply()

    def observe(self, metric: float) -> None:
        """Pass a new value of the metric to a curve that responds to one."""
        if self.is_replaced:
            return
        self._keep_changes()  # relative to the curve as it was when the lrs were set
        self.curve.observe(metric)
        self._apply()

    def get_lr(self) -> list[float | Tensor]:
        """The lr of each group at this update; a tensor if the group has a tensor."""
        values: list[float | Tensor] = []
        lrs = self.lrs_at(self.last_epoch)
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            now = group["lr"]
            values.append(now.new_full((), lr) if isinstance(now, Tensor) else lr)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return plain values: updates so far, the length, and the memory of the curve."""
        state: dict[str, Any] = {"last_epoch": self.last_epoch, "total": self.curve.total}
        if not self._is_moved_by_others and (waiting := self._updates.count - self._seen):
            state["waiting"] = waiting  # between the optimizer's `step` and this scheduler's
        if self.hyperparameters:
            state["moved"] = self._lengths()  # the key of earlier versions
        if factors := self._current_factors():
            state["factors"] = factors
        memory = self.curve.state_dict()
        return state | ({"curve": memory} if memory else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the saved update.

        Raises:
            ValueError: the saved schedule had another length, and `horizon` is "error".
        """
        self._check_state(state_dict)
        self._load_lengths(state_dict)
        self._notice_others()
        self.last_epoch = self._position = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        self._factors = dict(state_dict.get("factors", {}))
        self._seen = self._updates.count - state_dict.get("waiting", 0)
        if "curve" in state_dict:
            self.curve.load_state_dict(state_dict["curve"])
        is_extended = self.horizon == "extend" and self.curve.total != state_dict["total"]
        if is_extended and not self._is_moved_by_others:
            self._apply()  # the saved lrs are those of the old length
        else:
            self._record_lrs()

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        missing = [key for key in ("last_epoch", "total") if key not in state_dict]
        if missing:
            raise UsageError(
                f"the saved state is not of a schedule of lit_optim: it has no {missing[0]}, but "
                f"{', '.join(map(str, state_dict)) or 'nothing'}"
            )
        saved, own = state_dict.get("curve", {}), self.curve.state_dict()
        if saved and not saved.keys() & own.keys():
            raise UsageError(
                "the saved state is of another schedule: it remembers "
                f"{', '.join(map(str, saved))}, and this one {', '.join(own) or 'nothing'}"
            )

    def __copy__(self) -> ScheduledLR:
        """Return a scheduler of the same optimizer, which moves only when it is stepped."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_updates", "_predecessor")
        state = {name: value for name, value in vars(self).items() if name not in left_out}
        return state | {"_seen": self._updates.count - self._seen}  # stored as `waiting`

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._attach(waiting=state["_seen"])
        if self._steps_after_updates:
            self.step_after_updates()


def _check_last_epoch(last_epoch: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    if isinstance(last_epoch, bool) or not isinstance(last_epoch, int) or last_epoch < -1:
        raise UsageError(f"last_epoch must be a whole number >= -1, got {show(last_epoch)}")
    if any("initial_lr" not in group for group in groups):
        raise UsageError(
            f"last_epoch={last_epoch} resumes, but a group has no initial_lr: load the optimizer's "
            "saved state first"
        )
