"""A step of a group that is made as the one before was.

Most steps differ from the one before in their gradients, the lr and the number of the update only.
What else a step depends on is then looked at, but not derived again, which takes a small model
longer than the update itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from operator import is_, itemgetter
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from lit_optim.kernels.dispatch import NativeCall
from lit_optim.optimizers.base.options import option_scalars
from lit_optim.optimizers.base.types import Group, Scalars

#: The keys of a group that a repeated step reads each time, and names, which no step reads.
NOT_FIXED = ("params", "lr", "param_names")
#: Values of which an equal one is as good, and which nobody can change where they are.
FIXED = (bool, int, float, str, type(None))
#: An optimizer with at most this many times the parameters of a group has its states listed.
MOST_LISTED = 4

get_step = itemgetter("step")


class Repeat:
    """A step of all parameters of a group by one native call.

    Args:
        owner: the optimizer that steps the group; it is not kept alive.
        group: one that `is_plain`.
        call: what updates all of its parameters.
        names: those of the states.
        scalars: those of the last update, all that the rule is given.
        t: the number of the last update.
    """

    def __init__(
        self,
        owner: Any,
        group: Group,
        call: NativeCall,
        names: tuple[str, ...],
        scalars: Scalars,
        t: int,
    ) -> None:
        self.group, self._call, self._names = group, call, names
        self._scalars, self._t = scalars, t
        self._keys = [key for key in group if key not in NOT_FIXED]
        self._read = itemgetter(*self._keys)
        values = self._read(group)
        # a list may be changed where it is, so a copy of it is compared
        self._fixed = tuple(list(one) if isinstance(one, list) else one for one in values)
        self._states = [owner.state[p] for p in group["params"]]
        #: The names of the numbers in the states, and how each is read.
        self._kept = {name: itemgetter(name) for name in owner.initial_scalars(group)}
        self._derived = owner.scalars(group | self._numbers(), t).keys()

    def run(self, owner: Any) -> bool:
        """Make the next update; False, with nothing changed, if more than usual has changed."""
        group, states = self.group, self._states
        lr = group.get("lr")
        if type(lr) is not float:
            return False
        try:
            if self._read(group) != self._fixed:
                return False
        except KeyError:
            return False
        params: list[Tensor] = group["params"]
        now = find_states(owner.state, params)
        if len(now) != len(states) or not all(map(is_, now, states)):
            return False
        if {*map(get_step, states)} != {self._t}:
            return False
        kept = params, *[map(itemgetter(key), states) for key in self._call.state_keys]
        if not self._call.table.refresh([p.grad for p in params], kept):  # type: ignore[misc]
            return False
        t, after = self._t + 1, {}
        numbers = self._numbers() if self._kept else {}
        if numbers:
            if any({*map(read, states)} != {numbers[name]} for name, read in self._kept.items()):
                return False
            group = group | numbers
            after = owner.next_scalars(group, t)
        derived = owner.scalars(group, t)
        if derived.keys() != self._derived:
            return False
        a, b = owner.coefficients(group, t)
        scalars = self._scalars.copy()
        for key, number in {"lr": lr, **numbers}.items():
            if key in scalars:
                scalars[key] = number
        scalars |= derived
        scalars |= option_scalars(group, b)
        scalars.update(a=a, b=b, wd=(1.0 - a) / b if b else 0.0)
        if owner.run_update(self._call, self._names, SimpleNamespace(**scalars), t) is not None:
            return False
        self._t = t
        for state in states:
            state.update(after, step=t)
        return True

    def _numbers(self) -> dict[str, Any]:
        """The numbers in the state of the first parameter; those of all are most often the same."""
        return {name: read(self._states[0]) for name, read in self._kept.items()}


def find_states(states: Mapping[Tensor, Any], params: Sequence[Tensor]) -> list[Any]:
    """The states of the parameters of a group; None for one that has none.

    Where they are next to each other, and not few of all, they are listed: to look one up, Python
    calls the hash of a tensor, which torch computes in Python.

    Args:
        states: of all parameters of the optimizer.
        params: the parameters of the group.
    """
    if params and len(states) <= MOST_LISTED * len(params):
        first = next((k for k, p in enumerate(states) if p is params[0]), 0)
        end = first + len(params)
        if end <= len(states) and all(map(is_, islice(states, first, end), params)):
            return list(islice(states.values(), first, end))
    return list(map(states.get, params))


def is_plain(group: Mapping[str, Any]) -> bool:
    """Whether the hyperparameters of a group are plain values, and its lr is a number."""
    values = [value for key, value in group.items() if key not in NOT_FIXED]
    lists = tuple, list
    parts = [part for value in values for part in (value if type(value) in lists else (value,))]
    return type(group.get("lr")) is float and {*map(type, parts)}.issubset(FIXED)
