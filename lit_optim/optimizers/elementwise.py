"""Algorithms that look at one coordinate at a time: a rule in scalar arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lit_optim.kernels import torch_executor
from lit_optim.optimizers.walk import Prepared, Walk, wide


@dataclass(frozen=True)
class State:
    """A tensor that the optimizer keeps for each parameter, of the parameter's shape."""

    kind: Literal["signed", "non-negative", "weight-like"] = "signed"
    initial: float = 0.0


class Elementwise(Walk):
    """An optimizer whose rule is written once, in scalar arithmetic.

    A subclass declares `states` and writes `scalars` and `rule`.
    """

    def states(self, group: dict[str, Any]) -> dict[str, State]:
        """The states of a parameter of this group, by torch's names for them."""
        raise NotImplementedError

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        """The algorithm, pure: old states `s` in, direction u and new states out.

        Python `if` only on the bools of `h`, which stay the same for a group; never on a number
        that a tensor carries.
        """
        raise NotImplementedError

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        return {
            name: torch.full_like(p, declared.initial, dtype=wide(p))
            for name, declared in self.states(group).items()
        }

    def update(  # noqa: D102
        self, p: Tensor, g: Tensor, state: dict[str, Tensor], prepared: Prepared
    ) -> None:
        torch_executor.step(self._direction, p, g, state, *prepared)

    def _direction(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        return self.rule(g + h.l2 * p if h.l2 else g, p, s, h)
