"""Param groups divided by patterns of parameter names into decayed and other parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.declared import setting
from lit_optim.optimizers.base.groups import with_names
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.types import Group, Params

Patterns = Sequence[re.Pattern[str]]


class DecayByName(OptimizerBase):
    """An optimizer whose groups are divided by patterns of parameter names."""

    #: The choice of param_groups unless another one is made: only the patterns decide.
    default_groups: ClassVar[str] = "single"

    include_in_weight_decay: Sequence[str] | None = setting(default=None, kw_only=False)
    exclude_from_weight_decay: Sequence[str] | None = setting(default=None, kw_only=False)

    def set_up(self, params: Params, values: dict[str, Any]) -> None:
        include, exclude = "include_in_weight_decay", "exclude_from_weight_decay"
        self._include = compile_patterns(include, values.pop(include))
        self._exclude = compile_patterns(exclude, values.pop(exclude))
        super().set_up(params, values)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, or two where the patterns divide it."""
        decay, group = self.defaults["weight_decay"], with_names(param_group)
        for part in split_by_decay(group, self._include, self._exclude, decay):
            super().add_param_group(part)

    def __getstate__(self) -> dict[str, Any]:
        patterns = {"_include": self._include, "_exclude": self._exclude}
        return super().__getstate__() | patterns


def compile_patterns(key: str, patterns: Iterable[str] | None) -> list[re.Pattern[str]]:
    """Compile the regular expressions of an argument.

    Args:
        key: the name of the argument, for messages.
        patterns: the expressions.

    Raises:
        UsageError: one is not a regular expression.
    """
    compiled = []
    for pattern in patterns or ():
        try:
            compiled.append(re.compile(pattern))
        except (re.error, OverflowError) as error:
            raise UsageError(f"{key}: {pattern!r} is not a regular expression: {error}") from None
    return compiled


def split_by_decay(
    group: Group, include: Patterns, exclude: Patterns, weight_decay: float
) -> list[Group]:
    """Divide a group into one that is decayed and one that is not, without empty ones.

    Args:
        group: a group with `param_names`.
        include: parameters whose names match are decayed.
        exclude: other parameters whose names match are not decayed.
        weight_decay: the optimizer's, for a group that does not set one.

    Raises:
        UsageError: the parameters have no names.
    """
    if not (include or exclude):
        return [group]
    params, names = group["params"], group.get("param_names", [])
    if len(names) != len(params):
        raise UsageError(
            "include_in_weight_decay and exclude_from_weight_decay need names of parameters: "
            "give (name, parameter) pairs, or param_names in each group"
        )
    is_exempt = group.get("weight_decay") == 0
    decay = weight_decay if is_exempt else group.get("weight_decay", weight_decay)
    marks = [
        any(pattern.search(name) for pattern in include)
        or not (is_exempt or any(pattern.search(name) for pattern in exclude))
        for name in names
    ]
    if not any(marks) if is_exempt else all(marks):
        return [group]
    name = group.get("name", "all")
    first, second = ("decay", "no_decay") if name == "all" else (name, f"{name}.no_decay")
    if is_exempt:
        first, second = f"{name}.decay", name
    parts = [
        group | {"name": first, "weight_decay": decay, **_select(group, marks, True)},
        group | {"name": second, "weight_decay": 0.0, **_select(group, marks, False)},
    ]
    return [part for part in parts if part["params"]]


def _select(group: Group, marks: list[bool], mark: bool) -> dict[str, Any]:
    places = [place for place, marked in enumerate(marks) if marked == mark]
    return {key: [group[key][place] for place in places] for key in ("params", "param_names")}
