"""The parameters that one step of a rule updates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.pointer_table import PLAIN_TENSORS
from lit_optim.kernels.precision import Place
from lit_optim.sharding.placement import (
    Sharding,
    local_gradient,
    local_tensor,
    runs_of,
)


@dataclass
class Batch:
    """Parameters of a group that are at the same step, their gradients and their states."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    #: How all of them are spread over processes; None where each process has them whole.
    sharding: Sharding | None = None
    #: The parameters that `params` are the shards of; None if those are the parameters themselves.
    wholes: list[Tensor] | None = None

    def whole(self, i: int) -> Tensor:
        """The i-th parameter, of which `params[i]` may be a shard."""
        return self.params[i] if self.wholes is None else self.wholes[i]

    def place(self, i: int) -> Place:
        """Where the i-th shard is in its parameter, counted in real numbers."""
        p = self.whole(i)
        numbers = 2 if p.is_complex() else 1
        runs = runs_of(p)
        first, length, gap = (numbers * x for x in runs)
        return Place(first, numbers * p.numel(), length, gap)

    def select(self, places: list[int]) -> Batch:
        """The batch of the parameters at these places."""
        columns = self.params, self.grads, self.states
        params, grads, states = ([column[i] for i in places] for column in columns)
        wholes = self.wholes and [self.wholes[i] for i in places]
        return Batch(params, grads, states, self.sharding, wholes)  # type: ignore[arg-type]

    def rows(self, rows: slice) -> Batch:
        """The same rows of all tensors."""
        states = [{name: x[rows] for name, x in state.items()} for state in self.states]
        return Batch([p[rows] for p in self.params], [g[rows] for g in self.grads], states)

    def local(self) -> Batch:
        """The shards of this process, with the tensors of their states."""
        if self.wholes is not None or {*map(type, self.params), *map(type, self.grads)}.issubset(
            PLAIN_TENSORS
        ):
            return self
        pairs = zip(self.params, self.grads, strict=True)
        return Batch(
            [local_tensor(p) for p in self.params],
            [local_gradient(p, g) for p, g in pairs],
            [
                {k: local_tensor(x) if isinstance(x, Tensor) else x for k, x in state.items()}
                for state in self.states
            ],
            self.sharding,
            self.params,
        )

    def column(self, name: str) -> list[Tensor]:
        """The state of this name of each parameter."""
        return [state[name] for state in self.states]

    def steps(self, t: int) -> list[Tensor]:
        """A count of t - 1 updates for each parameter, as torch keeps it."""
        return list(torch.full((len(self.params),), t - 1.0, device=self.params[0].device))
