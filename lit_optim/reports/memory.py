"""The memory of a training besides activations: parameters, gradients and states, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_optim.callbacks.parameter_table import format_bytes, state_bytes
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.sharding import local_tensor
from lit_optim.wrappers import Wrapper, unwrap


@dataclass(frozen=True)
class Memory:
    """Bytes of a training; of sharded parameters what one process keeps.

    Args:
        count: the number of parameters, those of other processes too.
        parameters: all of them, frozen ones too.
        gradients: of trained parameters; released ones: of the most that are there together.
        states: of the optimizer, and what its wrappers keep.
        is_released: whether gradients are released.
    """

    count: int
    parameters: int
    gradients: int
    states: int
    is_released: bool = False

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.states

    def describe(self) -> str:
        """The bytes in a line, in all and for each parameter."""
        gradients = f"{format_bytes(self.gradients)} of gradients"
        if self.is_released:
            gradients = f"at most {gradients} at a time"
        return (
            f"{format_bytes(self.total)}: {format_bytes(self.parameters)} of parameters, "
            f"{gradients}, {format_bytes(self.states)} of state; "
            f"{self.total / max(1, self.count):.4g} bytes per parameter"
        )


def memory_of(optimizer: Any, module: nn.Module, is_released: bool = False) -> Memory:
    """The memory that training a module takes.

    Args:
        optimizer: of its parameters. For wrappers and for optimizers of other packages, the states
            that exist already are counted.
        module: the model.
        is_released: whether gradients are released.
    """
    params = list(dict.fromkeys(module.parameters()))
    within, states, stacks = unwrap(optimizer), 0, 0
    while isinstance(optimizer, Wrapper):
        for kept in (getattr(optimizer, name) for name in optimizer.tensors):
            states += sum(local_tensor(x).nbytes for x in kept.values())
        optimizer = optimizer.base
    for group in within.param_groups:
        states += sum(state_bytes(within, group, p) for p in group["params"])
        together = [[p] for p in group["params"]]
        if isinstance(within, OptimizerBase):
            together = within.owner(group).stacks(group)
        trained = [[p for p in stack if p.requires_grad] for stack in together]
        sizes = [_bytes_of(stack) for stack in trained]
        stacks = max([stacks, *sizes]) if is_released else stacks + sum(sizes)
    count = sum(p.numel() for p in params)
    return Memory(count, _bytes_of(params), stacks, states, is_released)


def _bytes_of(params: list[Tensor] | list[nn.Parameter]) -> int:
    return sum(local_tensor(p).nbytes for p in params)
