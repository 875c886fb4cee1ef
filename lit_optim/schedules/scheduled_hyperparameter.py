"""A hyperparameter of an optimizer, other than the lr, whose value follows a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lit_optim.errors import UsageError, show, suggest
from lit_optim.group_fields import group_name
from lit_optim.hyperparameters import accepts, describe, hints_of
from lit_optim.schedules.curve import Curve

if TYPE_CHECKING:  # the command line reads schedules before torch is loaded
    from torch.optim import Optimizer

#: As a schedule: the value is multiplied by the same factor as the lr.
LIKE_LR = "lr"
#: The number of updates, evenly spaced over the run, at which a curve is checked against a range.
CHECKED_UPDATES = 200


class ScheduledHyperparameter:
    """Sets a hyperparameter at every update.

    Args:
        key: its name in the groups, betas.0 for one of its numbers, or ema.decay for a wrapper's.
        curve: its schedule over the run; None: the same factor as the lr.
        optimizer: its groups have the base values, which the curve multiplies.
        group: the name of the only group that it applies to; None: every group that has it.
        path: the key in messages.

    Raises:
        UsageError: there is no such hyperparameter or group, or the curve leaves its range.
    """

    def __init__(
        self,
        key: str,
        curve: Curve | None,
        optimizer: Optimizer,
        group: str | None = None,
        path: str | None = None,
    ) -> None:
        self.key, self.path, self.curve = key, path or f"schedules.{key}", curve
        if curve is not None and curve.state_dict():
            raise UsageError(
                f"{self.path} has a memory, which only the schedule of the lr may have"
            )
        self._wrapper = _find_wrapper(optimizer, self.key)
        #: base values by index of the group; a wrapper's has index 0
        self.base_values: dict[int, float] = {}
        groups = optimizer.param_groups
        names = [group_name(group, k) for k, group in enumerate(groups)]
        if group is not None and group not in names:
            near = suggest(group, names) or f"; the groups are {', '.join(names)}"
            raise UsageError(f"{self.path}: there is no group {group!r}{near}")
        if self._wrapper is not None:
            self.base_values[0] = self._check(getattr(*self._wrapper), self._wrapper[0], {})
            return
        # torch's ZeroRedundancyOptimizer, which may be wrapped, knows no hyperparameters itself
        optimizer = getattr(optimizer, "optim", optimizer)
        for index, values in enumerate(groups):
            owner: Any = optimizer.owner(values) if hasattr(optimizer, "owner") else optimizer
            if group in (None, names[index]) and self.key.split(".")[0] in owner.defaults:
                base = read_value(values, self.key, self.path)
                self.base_values[index] = self._check(base, owner, values)
        if not self.base_values:
            known = [k for k, v in optimizer.defaults.items() if _is_number(v) and k != LIKE_LR]
            near = suggest(self.key, known) or f"; it has {', '.join(known)}"
            raise UsageError(f"{self.path}: {type(optimizer).__name__} has no {self.key}{near}")

    def value_at(self, t: int, index: int, lr_factor: float) -> float:
        """The value of a group at update t.

        Args:
            t: the update, from 0.
            index: of the group.
            lr_factor: the lr of the group as a multiple of its base lr.
        """
        base = self.base_values[index]
        return base * lr_factor if self.curve is None else self.curve(t, base)

    def apply(self, optimizer: Optimizer, t: int, lr_factors: list[float]) -> None:
        """Set the value for update t, except in groups that were added later.

        Args:
            optimizer: the one it was created with.
            t: the update, from 0.
            lr_factors: for each group, the lr as a multiple of its base lr.
        """
        for index in self.base_values:
            value = self.value_at(t, index, lr_factors[index])
            if self._wrapper is not None:
                setattr(*self._wrapper, value)
            else:
                _set_value(optimizer.param_groups[index], self.key, value)

    def current_value(self, optimizer: Optimizer, index: int) -> float:
        """The current value of a group."""
        if self._wrapper is not None:
            return float(getattr(*self._wrapper))
        return float(read_value(optimizer.param_groups[index], self.key, self.path))

    def _check(self, base: Any, owner: Any, group: Mapping[str, Any]) -> float:
        """Return the base value once every value of the curve is in the constructor's range."""
        if not _is_number(base):
            raise UsageError(
                f"{self.path}: {self.key} is {base!r}; only a number can have a schedule"
            )
        name = self.key.split(".")[0] if self._wrapper is None else self._wrapper[1]
        hint = hints_of(type(owner).__init__).get(name)
        if self.curve is not None and hint is not None:
            check_range(self.path, self.key, self.curve, float(base), group.get(name), hint)
        return float(base)


def check_range(path: str, key: str, curve: Curve, base: float, current: Any, hint: Any) -> None:
    """Check the values of a curve against the range of a hyperparameter.

    Args:
        path: the key in messages.
        key: the hyperparameter, or one number of it.
        curve: its schedule.
        base: the base value, which the curve multiplies.
        current: the current value of the whole hyperparameter.
        hint: the annotation of the hyperparameter.

    Raises:
        UsageError: naming the update and the value.
    """
    name, _, part = key.partition(".")
    evenly = {round(k * (curve.total - 1) / (CHECKED_UPDATES - 1)) for k in range(CHECKED_UPDATES)}
    for t in sorted(evenly | {t for t in curve.milestones() if t < curve.total}):
        value: Any = curve(t, base)
        checked = value
        if part.isdigit() and isinstance(current, list | tuple):
            checked = [value if k == int(part) else x for k, x in enumerate(current)]
        if not accepts(checked, hint):
            raise UsageError(
                f"{path} is {value:g} at update {t}, but {name} must be {describe(hint)}"
            )


def select_part(value: Any, key: str) -> Any:
    """The part of a value that a key names: of betas.0 the first; None if there is none."""
    part = key.partition(".")[2]
    if not part:
        return value
    exists = isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value)
    return value[int(part)] if exists else None


def read_value(group: Mapping[str, Any], key: str, path: str) -> Any:
    """The value of a hyperparameter, or of one number of it.

    Raises:
        UsageError: it has no such part, or it has several numbers and the key names none of them.
    """
    name, _, part = key.partition(".")
    whole, value = group[name], select_part(group[name], key)
    if not part and isinstance(whole, list | tuple):
        first = path.replace(key, f"{key}.0")
        raise UsageError(f"{path}: {name} has {len(whole)} numbers; name one, such as {first}")
    if part and value is None:
        raise UsageError(f"{path}: {name} is {show(whole)}, which has no part {part!r}")
    return value


def _set_value(group: dict[str, Any], key: str, value: float) -> None:
    name, _, part = key.partition(".")
    if not part:
        group[name] = value
        return
    parts = list(group[name])
    parts[int(part)] = value
    group[name] = tuple(parts)


def _find_wrapper(optimizer: Any, key: str) -> tuple[Any, str] | None:
    """The wrapper that a key such as ema.decay names, and the attribute; None if there is none."""
    name, _, attribute = key.partition(".")
    while hasattr(optimizer, "base"):
        if type(optimizer).__name__.lower() == name and attribute in vars(optimizer):
            return optimizer, attribute
        optimizer = optimizer.base
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)
