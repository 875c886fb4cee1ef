"""torch's functional optimizers: what they are called with, and when they fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.types import Group


@dataclass(frozen=True)
class TorchStep:
    """A functional optimizer of torch, which makes a fused update of many tensors.

    Args:
        function: called with the parameters, their gradients and a list for each state, and with
            the counts of updates if it takes any. Its hyperparameters are those of the group of
            the same names.
        states: the names of the states, in the order of its arguments.
        coupled: the function for a coupled weight decay, if that is another one.
        creates_states: whether torch creates the states in the first update. Their lists are then
            full of None where there are none, and empty otherwise.
        devices: the types of devices that it is used on.
    """

    function: Callable[..., Any]
    states: tuple[str, ...]
    coupled: Callable[..., Any] | None = None
    creates_states: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")

    def run(
        self, group: Group, batch: Batch, kept: tuple[str, ...], t: int, is_coupled: bool
    ) -> bool:
        """Make the t-th update.

        Args:
            group: the hyperparameters.
            batch: the parameters.
            kept: the names of the states that they have.
            t: the number of the update.
            is_coupled: whether the weight decay is a part of the gradient.

        Returns:
            whether the update is made; False if the function does not fit.
        """
        if batch.params[0].device.type not in self.devices:
            return False
        if self.creates_states and kept and t == 1:
            return False  # torch has no state yet, this package has one of zeros
        function = self.coupled if is_coupled and self.coupled else self.function
        absent = [None] * len(batch.params) if self.creates_states else []
        states = [batch.column(name) if name in kept else absent for name in self.states]
        counts = [batch.steps(t)] if "state_steps" in _names(function, False) else []
        hyper = {name: group[name] for name in _names(function, True) if name in group}
        hyper.update(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))
        function(batch.params, batch.grads, *states, *counts, fused=True, **hyper)
        return True


@cache
def _names(function: Callable[..., Any], by_keyword: bool) -> list[str]:
    """The arguments of a function that may, or may not, be passed by keyword only."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if (p.kind is p.KEYWORD_ONLY) == by_keyword]
