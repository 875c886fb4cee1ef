"""The parameters that one step of a rule updates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_optim.sharding.placement import Sharding, local_gradient, local_tensor


@dataclass
class Batch:
    """Parameters of a group that are at the same step, their gradients and their states."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    #: How all of them are spread over processes; None where each process has them whole.
    sharding: Sharding | None = None

    def select(self, places: list[int]) -> Batch:
        """The batch of the parameters at these places."""
        columns = self.params, self.grads, self.states
        params, grads, states = ([column[i] for i in places] for column in columns)
        return Batch(params, grads, states, self.sharding)  # type: ignore[arg-type]

    def local(self) -> Batch:
        """The shards of this process, with the tensors of their states."""
        pairs = zip(self.params, self.grads, strict=True)
        return Batch(
            [local_tensor(p) for p in self.params],
            [local_gradient(p, g) for p, g in pairs],
            [
                {k: local_tensor(x) if isinstance(x, Tensor) else x for k, x in state.items()}
                for state in self.states
            ],
            self.sharding,
        )

    def column(self, name: str) -> list[Tensor]:
        """The state of this name of each parameter."""
        return [state[name] for state in self.states]

    def steps(self, t: int) -> list[Tensor]:
        """A count of t - 1 updates for each parameter, as torch keeps it."""
        return list(torch.full((len(self.params),), t - 1.0, device=self.params[0].device))
