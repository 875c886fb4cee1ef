"""Schedules of other hyperparameters than the lr, in the same language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import accepts, describe, hints_of
from lit_optim.schedules.combinators import made
from lit_optim.schedules.core import Curve, Schedule
from lit_optim.schedules.phase_parser import phases

if TYPE_CHECKING:  # the command line reads schedules before torch is loaded
    from torch.optim import Optimizer

#: As a schedule: the value follows what the lr is multiplied by.
LIKE_LR = "lr"
GROUPS = "groups"
#: So many updates, evenly over the run, are held against the range of a hyperparameter.
LOOKS = 200


@dataclass(frozen=True)
class Moving:
    """What was asked for one hyperparameter.

    Args:
        key: its name in the groups, betas.0 for a part of it, or ema.decay for a wrapper's.
        schedule: over the run; None: it follows the lr.
        group: the name of the only group it is for; None: all that have it.
    """

    key: str
    schedule: Schedule | None
    group: str | None = None

    @property
    def path(self) -> str:
        """The key as a message names it."""
        return f"schedules.{self.key}" + (f".{GROUPS}.{self.group}" if self.group else "")


def movings(schedules: Mapping[str, Any]) -> list[Moving]:
    """What `schedules` asks for.

    Of a hyperparameter that is `lr` (the word), a schedule by name or as {name: cosine,
    min_lr_ratio: 0.1}, which gives factors of each group's own value, or a list of phases, which
    gives the values themselves; or {groups: {head: ...}} with one of these for each group.

    Raises:
        UsageError: something is none of these.
    """
    found: list[Moving] = []
    for key, given in _flat(schedules):
        if key == LIKE_LR:
            raise UsageError("schedules.lr: the lr has a schedule of its own, scheduler=...")
        if isinstance(given, Mapping) and GROUPS in given:
            of_groups = given[GROUPS]
            if set(given) != {GROUPS} or not isinstance(of_groups, Mapping):
                raise UsageError(
                    f"schedules.{key} must be {{groups: {{name: schedule, ...}}}} and nothing "
                    f"beside it, got {show(given)}"
                )
            for group, one in of_groups.items():
                path = f"{key}.{GROUPS}.{group}"
                found.append(Moving(key, _schedule(path, one), str(group)))
        else:
            found.append(Moving(key, _schedule(key, given)))
    return found


def _flat(schedules: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """With betas: {0: ...} and ema: {decay: ...} as betas.0 and ema.decay."""
    for key, given in schedules.items():
        nested = isinstance(given, Mapping) and not {GROUPS, "name", "phases"} & set(given)
        if nested and given:
            yield from ((f"{key}.{inner}", value) for inner, value in given.items())
        else:
            yield str(key), given


def _schedule(key: str, given: Any) -> Schedule | None:
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
    return made(key, given, "schedules")


class Moved:
    """A hyperparameter of an optimizer on its way.

    Args:
        moving: what was asked for.
        curve: its schedule over the run; None: as the lr.
        optimizer: its groups have the values from which factors count.

    Raises:
        UsageError: there is no such hyperparameter or group, or the curve leaves its range.
    """

    def __init__(self, moving: Moving, curve: Curve | None, optimizer: Optimizer) -> None:
        self.key, self.path, self.curve = moving.key, moving.path, curve
        if curve is not None and curve.state_dict():
            raise UsageError(f"{self.path} remembers its past, which only the lr's schedule may")
        self._wrapper = _wrapper(optimizer, self.key)
        #: by place of the group: its own value; of a wrapper's value, at place 0
        self.own: dict[int, float] = {}
        names = [str(g.get("name", f"group{k}")) for k, g in enumerate(optimizer.param_groups)]
        if moving.group is not None and moving.group not in names:
            near = suggest(moving.group, names) or f"; the groups are {', '.join(names)}"
            raise UsageError(f"{self.path}: there is no group {moving.group!r}{near}")
        if self._wrapper is not None:
            self.own[0] = self._checked(getattr(*self._wrapper), self._wrapper[0], {})
            return
        for place, group in enumerate(optimizer.param_groups):
            owner: Any = optimizer.owner(group) if hasattr(optimizer, "owner") else optimizer
            if moving.group in (None, names[place]) and self.key.split(".")[0] in owner.defaults:
                self.own[place] = self._checked(read(group, self.key, self.path), owner, group)
        if not self.own:
            known = [k for k, v in optimizer.defaults.items() if _is_number(v) and k != LIKE_LR]
            near = suggest(self.key, known) or f"; it has {', '.join(known)}"
            raise UsageError(f"{self.path}: {type(optimizer).__name__} has no {self.key}{near}")

    def at(self, t: int, place: int, of_lr: float) -> float:
        """The value of a group at update t, whose lr is `of_lr` times its own."""
        own = self.own[place]
        return own * of_lr if self.curve is None else self.curve(t, own)

    def put(self, optimizer: Optimizer, t: int, of_lr: list[float]) -> None:
        """Set it for update t.

        Args:
            optimizer: as it was made; groups that came later are left alone.
            t: the update, from 0.
            of_lr: of each group, the lr as a multiple of its own.
        """
        for place in self.own:
            value = self.at(t, place, of_lr[place])
            if self._wrapper is not None:
                setattr(*self._wrapper, value)
            else:
                _set(optimizer.param_groups[place], self.key, value)

    def value(self, optimizer: Optimizer, place: int) -> float:
        """As it is now."""
        if self._wrapper is not None:
            return float(getattr(*self._wrapper))
        return float(read(optimizer.param_groups[place], self.key, self.path))

    def _checked(self, own: Any, owner: Any, group: Mapping[str, Any]) -> float:
        """The own value, once all that it becomes is in the range that the constructor tells."""
        if not _is_number(own):
            raise UsageError(f"{self.path}: {self.key} is {own!r}, not a number that could move")
        name = self.key.split(".")[0] if self._wrapper is None else self._wrapper[1]
        hint = hints_of(type(owner).__init__).get(name)
        if self.curve is not None and hint is not None:
            check_values(self.path, self.key, self.curve, float(own), group.get(name), hint)
        return float(own)


def check_values(path: str, key: str, curve: Curve, own: float, whole: Any, hint: Any) -> None:
    """Hold a curve against a range.

    Args:
        path: what a message names.
        key: the hyperparameter, or a part of it.
        curve: its values.
        own: what factors are of.
        whole: the tuple that it is a part of, or anything.
        hint: the annotation of the hyperparameter.

    Raises:
        UsageError: naming the update and the value.
    """
    name, _, part = key.partition(".")
    steps = {round(k * (curve.total - 1) / (LOOKS - 1)) for k in range(LOOKS)}
    for t in sorted(steps | {t for t in curve.milestones() if t < curve.total}):
        value: Any = curve(t, own)
        held = value
        if part.isdigit() and isinstance(whole, list | tuple):
            held = [value if k == int(part) else x for k, x in enumerate(whole)]
        if not accepts(held, hint):
            raise UsageError(
                f"{path} is {value:g} at update {t}, but {name} must be {describe(hint)}"
            )


def part_of(value: Any, key: str) -> Any:
    """The value that a key is about: of betas.0 the first; None where there is no such part."""
    part = key.partition(".")[2]
    if not part:
        return value
    known = isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value)
    return value[int(part)] if known else None


def _wrapper(optimizer: Any, key: str) -> tuple[Any, str] | None:
    """The wrapper that ema.decay names, if it is around, and the attribute."""
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


def read(group: Mapping[str, Any], key: str, path: str) -> Any:
    """The value of a hyperparameter, or of a part of one.

    Raises:
        UsageError: it has no such part, or has parts of which none is named.
    """
    name, _, part = key.partition(".")
    whole, value = group[name], part_of(group[name], key)
    if not part and isinstance(whole, list | tuple):
        first = path.replace(key, f"{key}.0")
        raise UsageError(f"{path}: {name} are {len(whole)} numbers; say which, as in {first}")
    if part and value is None:
        raise UsageError(f"{path}: {name} is {whole!r}, which has no part {part!r}")
    return value


def _set(group: dict[str, Any], key: str, value: float) -> None:
    name, _, part = key.partition(".")
    if not part:
        group[name] = value
        return
    parts = list(group[name])
    parts[int(part)] = value
    group[name] = tuple(parts)
