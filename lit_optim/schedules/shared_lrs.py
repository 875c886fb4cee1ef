"""The lrs of an optimizer where other code sets them too: schedulers, callbacks, the loop."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from operator import is_
from typing import Any, NamedTuple
from weakref import ref

from lit_optim.group_fields import initial_lr
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.curve_setter import CurveSetter
from lit_optim.schedules.group_lrs import get_lr, read_lr
from lit_optim.updates import Updates, innermost_optimizer


class LastSchedule(NamedTuple):
    """The schedule that set the lrs of an optimizer last.

    Args:
        scheduler: a weak reference.
        lrs: as it set them.
        factors: by index of a group: the factor by which other code had changed its lr.
        made_at: the count of updates then.
        curve: of a schedule that is yet to begin.
    """

    scheduler: ref[Any]
    lrs: list[float | None]
    factors: dict[int, float]
    made_at: int
    curve: Curve | None

    def warn_if_lost(self, updates: Updates, optimizer: Any) -> None:
        """Warn, once the schedule is gone, that it was not kept until its first update."""
        curve = self.curve
        if curve is None or curve.metric is not None or updates.count != self.made_at:
            return
        lrs = [read_lr(group["lr"]) for group in optimizer.param_groups]
        is_constant = len({curve.sample(t) for t in (0, *curve.milestones())}) == 1
        if lrs == self.lrs and not is_constant:  # nothing else sets them
            warnings.warn(
                "the schedule of the optimizer is gone before its first update, so the lr stays as "
                "it is: keep what lit_optim.schedule returns in a variable",
                UserWarning,
                stacklevel=5,
            )


class SharedLrs(CurveSetter):
    """The part of `ScheduledLR` that notices, keeps or leaves alone what other code sets."""

    _updates: Updates
    #: the count of updates up to which the schedule has moved
    _seen: int
    _has_warned: bool
    # here rather than in the constructor for the sake of objects that were pickled before
    #: whether the loop has called `step`
    _was_stepped = False
    #: whether other code sets the lr before the schedule has begun
    _waits = False
    #: the schedule of the optimizer that was made before, while its lr counts as a factor
    _predecessor: LastSchedule | None = None
    #: the factors at the start
    _initial: Mapping[int, float] = {}
    #: the lrs that other code has set last
    _others_lrs: list[float | None] | None = None

    def _keep_changes(self) -> None:
        """Keep changes that other code made to the lrs since the last step."""
        if not self._has_set_lrs():
            self._factors = self._current_factors()

    def _has_set_lrs(self) -> bool:
        """Whether the lrs are the objects that this schedule has set."""
        groups, known = self.optimizer.param_groups, self._set_lrs
        return len(groups) == len(known) and all(map(is_, map(get_lr, groups), known))

    def _current_factors(self) -> dict[int, float]:
        factors, groups = dict(self._factors), self.optimizer.param_groups
        if self._has_set_lrs():
            return factors
        for index, (before, group) in enumerate(zip(self._set_lrs, groups, strict=False)):
            now = read_lr(group["lr"])
            if before is None or now is None or now == before:
                continue
            if before:
                factors[index] = factors.get(index, 1.0) * now / before
            elif factors.get(index) == 0:  # other code had set it to 0: compare with the curve
                level = self.curve(self.last_epoch, float(group["initial_lr"]))
                factors[index] = now / level if level else 1.0
        return factors

    def _initial_factors(self) -> dict[int, float]:
        """By index of a group: the factor of a scheduler that was created before this one.

        If the optimizer has already made updates, that scheduler is taken as finished.
        """
        innermost = innermost_optimizer(self.optimizer)
        was_used = self._updates.step_calls or getattr(innermost, "_opt_called", False)
        if was_used or innermost.state:
            return {}
        last = self._updates.last_schedule
        is_other = last is not None and last.scheduler() is not self
        if is_other and last.lrs == self._read_lrs():
            if last.scheduler() is None:
                return dict(last.factors)
            self._predecessor = last  # may be in a chain with this one, or given up soon
        factors = {}
        for index, group in enumerate(self.optimizer.param_groups):
            lr, base = read_lr(group["lr"]), read_lr(initial_lr(group))
            if lr and base and lr != base:
                factors[index] = lr / base
        return factors

    def _are_lrs_changed(self, known: list[float | None]) -> bool:
        """Whether other code has changed an lr since then; unknown for a tensor on a GPU."""
        pairs = zip(known, self._read_lrs(), strict=False)
        return any(None not in (before, now) and before != now for before, now in pairs)

    def _record_lrs(self) -> None:
        super()._record_lrs()
        self._updates.last_schedule = LastSchedule(
            ref(self),
            self._set_lrs,
            dict(self._factors),
            self._updates.count,
            None if self._has_begun else self.curve,
        )

    @property
    def _is_set_by_another_schedule(self) -> bool:
        last = self._updates.last_schedule
        return last is not None and last.scheduler() not in (None, self)

    def _is_set_by_others(self) -> bool:
        """Whether other code has set the lrs since this schedule did."""
        return self._is_set_by_another_schedule or self._are_lrs_changed(self._set_lrs)

    @property
    def _has_begun(self) -> bool:
        return self.last_epoch > 0 or self._was_stepped

    def _forget_predecessor(self) -> None:
        """Take back the factor of an earlier schedule that is gone, or has no part in the loop."""
        last = self._predecessor
        if last is None:
            return
        scheduler = last.scheduler()
        if scheduler is not None and (scheduler._has_begun or not self._updates.count):
            return
        self._keep_changes()
        for index, factor in self._initial.items():
            self._factors[index] *= last.factors.get(index, 1.0) / factor
        self._predecessor, self._waits = None, self._waits and bool(last.factors)
        self._apply()

    def _leave_to_others(self) -> None:
        """Wait for the first `step` if other code sets the lr before the schedule has begun.

        The updates until the last change are not the schedule's.
        """
        if self._are_lrs_changed(self._others_lrs or self._set_lrs):
            self._others_lrs = self._read_lrs()
            self._seen, self._waits = self._updates.count, True
        elif self._waits and not (
            self._factors or self._has_warned or self._is_set_by_another_schedule
        ):
            self._has_warned = True
            warnings.warn(
                "the lr was changed after the schedule was made, so the schedule waits for its "
                "first step()",
                UserWarning,
                stacklevel=2,
            )
