"""The setting `schedules`: schedules of hyperparameters other than the lr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_optim.errors import UsageError, show
from lit_optim.schedules.combinators import build_part
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.phase_parser import phases
from lit_optim.schedules.scheduled_hyperparameter import LIKE_LR, ScheduledHyperparameter

if TYPE_CHECKING:  # the command line reads schedules before torch is loaded
    from torch.optim import Optimizer

GROUPS = "groups"


@dataclass(frozen=True)
class HyperparameterSchedule:
    """The schedule of one hyperparameter.

    Args:
        key: its name in the groups, betas.0 for one of its numbers, or ema.decay for a wrapper's.
        schedule: over the run; None: the same factor as the lr.
        group: the name of the only group that it applies to; None: every group that has it.
    """

    key: str
    schedule: Schedule | None
    group: str | None = None

    @property
    def path(self) -> str:
        """The key in messages."""
        return f"schedules.{self.key}" + (f".{GROUPS}.{self.group}" if self.group else "")

    def attach(self, curve: Curve | None, optimizer: Optimizer) -> ScheduledHyperparameter:
        """Apply a curve of this schedule to an optimizer; None: the same factor as the lr.

        Raises:
            UsageError: there is no such hyperparameter or group, or the curve leaves its range.
        """
        return ScheduledHyperparameter(self.key, curve, optimizer, self.group, self.path)


def parse_hyperparameter_schedules(schedules: Mapping[str, Any]) -> list[HyperparameterSchedule]:
    """Read the setting `schedules`.

    For each hyperparameter it has `lr` (the word), which applies the factor of the lr; a schedule
    by name or as {name: cosine, min_lr_ratio: 0.1}, which multiplies each group's base value; a
    list of phases, whose levels are the values themselves; or {groups: {head: ...}} with one of
    these for each group.

    Raises:
        UsageError: a value is none of these.
    """
    parsed: list[HyperparameterSchedule] = []
    for key, given in _flatten(schedules):
        if key == LIKE_LR:
            raise UsageError("schedules.lr: the lr has a schedule of its own, scheduler=...")
        if isinstance(given, Mapping) and GROUPS in given:
            by_group = given[GROUPS]
            if set(given) != {GROUPS} or not isinstance(by_group, Mapping):
                raise UsageError(
                    f"schedules.{key} must be {{groups: {{name: schedule, ...}}}} without other "
                    f"keys, got {show(given)}"
                )
            for group, value in by_group.items():
                schedule = _parse_schedule(f"{key}.{GROUPS}.{group}", value)
                parsed.append(HyperparameterSchedule(key, schedule, str(group)))
        else:
            parsed.append(HyperparameterSchedule(key, _parse_schedule(key, given)))
    return parsed


def _flatten(schedules: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Turn betas: {0: ...} and ema: {decay: ...} into betas.0 and ema.decay."""
    for key, given in schedules.items():
        is_nested = isinstance(given, Mapping) and not {GROUPS, "name", "phases"} & set(given)
        if is_nested and given:
            yield from ((f"{key}.{inner}", value) for inner, value in given.items())
        else:
            yield str(key), given


def _parse_schedule(key: str, given: Any) -> Schedule | None:
    if given == LIKE_LR:
        return None
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, Mapping) and "phases" in given:
        given = {"name": "phases", **given}
    if isinstance(given, list | tuple):
        try:
            return phases(given, absolute=True)
        except UsageError as error:
            raise UsageError(f"schedules.{key}: {error}") from None
    return build_part(key, given, "schedules")
