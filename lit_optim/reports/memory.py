"""The memory of a training besides activations: parameters, gradients and states, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_optim.callbacks.parameter_table import format_bytes, state_bytes
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.sharding import is_sharded, local_tensor
from lit_optim.wrappers import unwrap


@dataclass(frozen=True)
class Memory:
    """Bytes of a training; of sharded parameters what one process keeps.

    Args:
        count: the number of parameters, those of other processes too.
        parameters: all of them, frozen ones too.
        gradients: of trained parameters; released ones: of the most that are there together.
        states: of the optimizer.
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
        each = [self.total, self.parameters, self.gradients, self.states]
        total, *parts = (f"{size / max(1, self.count):.4g}" for size in each)
        gradients = f"at most {parts[1]} of gradients" if self.is_released else f"{parts[1]}"
        gradients += ", released" if self.is_released else " of gradients"
        return (
            f"{format_bytes(self.total)} without activations: {total} bytes per parameter, "
            f"{parts[0]} of parameters, {gradients}, {parts[2]} of states"
        )


def memory_of(optimizer: Any, module: nn.Module, is_released: bool = False) -> Memory:
    """The memory that training a module takes.

    Args:
        optimizer: of its parameters; of one that is not ours, the states are those that it has.
        module: the model.
        is_released: whether gradients are released.
    """
    params = list(dict.fromkeys(module.parameters()))
    within = unwrap(optimizer)
    states = stacks = 0
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
    return sum(local_tensor(p).nbytes if is_sharded(p) else p.nbytes for p in params)
