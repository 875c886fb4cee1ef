"""Decides which parameters native kernels update, in how many calls, and which ones torch updates.

All parameters with the same device, dtypes and kinds of state share one call, which is why many
small tensors cost little more than one large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lit_optim.kernels import cpu, cuda
from lit_optim.kernels.pointer_table import PointerTable
from lit_optim.kernels.precision import LOW_BITS, SCALE, Place


class ParameterBatch(Protocol):
    """Parameters at the same step, with their gradients and states."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]

    def whole(self, i: int) -> Tensor:
        """The i-th parameter, of which `params[i]` may be a shard."""
        ...

    def place(self, i: int) -> Place:
        """Where the i-th shard is in its parameter."""
        ...


class NativeCall(NamedTuple):
    """One call of a native kernel.

    Args:
        engine: the module with the kernels: `cpu` or `cuda`.
        table: the addresses of the tensors.
        members: the positions of the parameters in the batch.
        state_keys: the names of the tensors of a parameter's state, in the order of the table.
    """

    engine: Any
    table: PointerTable
    members: list[int]
    state_keys: tuple[str, ...]


class DispatchTable:
    """The native calls for a batch of parameters, and the parameters that are left to torch.

    It is built once and refreshed at each step, since usually only the gradients have moved.

    Args:
        names: the names of the states that the rule knows.
        batch: the parameters.
        numbers: the number of each parameter of the optimizer, by its id.
    """

    def __init__(
        self, names: Sequence[str], batch: ParameterBatch, numbers: Mapping[int, int]
    ) -> None:
        self.names = names
        self.calls: list[NativeCall] = []
        #: The positions of the parameters that no native kernel supports.
        self.fallback: list[int] = []
        #: Why the last of them is not supported.
        self.reason: str | None = None
        members_by_kind: dict[Any, list[int]] = {}
        rows = {}
        for i, (p, g, state) in enumerate(
            zip(batch.params, batch.grads, batch.states, strict=True)
        ):
            reason = self._unsupported_reason(batch, i)
            if reason is not None:
                self.fallback.append(i)
                self.reason = reason
                continue
            scales = [name + SCALE for name in names if name + SCALE in state]
            has_low_bits = LOW_BITS in state and p.dtype == torch.bfloat16
            keys = (*names, *scales, *[LOW_BITS] * has_low_bits)
            rows[i] = [p, g, *(state[key] for key in keys)]
            dtypes = (tensor.dtype for tensor in rows[i])
            members_by_kind.setdefault((_engine_of(p), p.device, keys, *dtypes), []).append(i)
        for (engine, _, keys, *_), members in members_by_kind.items():
            own_numbers = [numbers[id(batch.whole(i))] for i in members]
            places = [batch.place(i) for i in members]
            table = engine.PointerTable([rows[i] for i in members], own_numbers, places)
            self.calls.append(NativeCall(engine, table, members, keys))

    def refresh(self, batch: ParameterBatch) -> bool:
        """Store the addresses that the gradients have now.

        Returns:
            Whether this batch is otherwise like the one that the table was built for; if not, a new
            table has to be built.
        """
        for _, table, members, keys in self.calls:
            params, grads, states = batch.params, batch.grads, batch.states
            if len(members) != len(params):
                params = [params[i] for i in members]
                grads = [grads[i] for i in members]
                states = [states[i] for i in members]
            if not table.refresh(grads, [params, *(map(itemgetter(key), states) for key in keys)]):
                return False
        return all(self._unsupported_reason(batch, i) is not None for i in self.fallback)

    def _unsupported_reason(self, batch: ParameterBatch, i: int) -> str | None:
        p, g, state = batch.params[i], batch.grads[i], batch.states[i]
        row = [p, g, *(state[name] for name in self.names)]
        reason: str | None = _engine_of(p).unsupported_reason(row)
        return reason


def _engine_of(p: Tensor) -> Any:
    return cuda if p.is_cuda else cpu
