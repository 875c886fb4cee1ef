"""The parameters that one step of a rule updates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """Parameters of a group that are at the same step, their gradients and their states."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def select(self, places: list[int]) -> Batch:
        """The batch of the parameters at these places."""
        columns = self.params, self.grads, self.states
        return Batch(*([column[i] for i in places] for column in columns))  # type: ignore[arg-type]

    def column(self, name: str) -> list[Tensor]:
        """The state of this name of each parameter."""
        return [state[name] for state in self.states]

    def steps(self, t: int) -> list[Tensor]:
        """A count of t - 1 updates for each parameter, as torch keeps it."""
        return list(torch.full((len(self.params),), t - 1.0, device=self.params[0].device))
