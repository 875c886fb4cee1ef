"""The memory of a training besides activations: parameters, gradients and states, in bytes."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_optim.callbacks.parameter_table import format_bytes, state_bytes
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.sharding import is_sharded, local_tensor
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
    within, states, stacks = unwrap(optimizer), 0, list[list[Tensor]]()
    while isinstance(optimizer, Wrapper):
        for kept in (getattr(optimizer, name) for name in optimizer.tensors):
            states += sum(local_tensor(x).nbytes for x in kept.values())
        optimizer = optimizer.base
    for group in within.param_groups:
        states += sum(state_bytes(within, group, p) for p in group["params"])
        together = [[p] for p in group["params"]]
        if isinstance(within, OptimizerBase):
            together = within.owner(group).stacks(group)
        stacks += [[p for p in stack if p.requires_grad] for stack in together]
    count = sum(p.numel() for p in params)
    gradients = _most_held(module, stacks) if is_released else sum(map(_bytes_of, stacks))
    return Memory(count, _bytes_of(params), gradients, states, is_released)


def _most_held(module: nn.Module, stacks: list[list[Tensor]]) -> int:
    """The bytes of the gradients that are there together at most.

    They come in the reverse order of the parameters, and those that FSDP2 reduces together at once:
    these are one tensor, which is freed with the last of them.

    Args:
        module: the model.
        stacks: the parameters that are updated together, once the last of their gradients is there.
    """
    stack_of = {p: stack for stack in stacks for p in stack}
    missing = {id(stack): len(stack) for stack in stacks}
    #: For each tensor of gradients: its bytes, and the parameters that are not updated yet.
    held: list[tuple[int, set[Tensor]]] = []
    most = 0
    for arrived in _arrivals(module, stack_of):
        held.append((_bytes_of(arrived), set(arrived)))
        most = max(most, sum(size for size, _ in held))
        for p in arrived:
            stack = stack_of[p]
            missing[id(stack)] -= 1
            if not missing[id(stack)]:
                held = [(size, waiting.difference(stack)) for size, waiting in held]
                held = [(size, waiting) for size, waiting in held if waiting]
    return most


def _arrivals(module: nn.Module, trained: Container[Tensor]) -> list[list[Tensor]]:
    """The trained parameters in the order of their gradients; those that come at once together."""
    params = [p for p in dict.fromkeys(module.parameters()) if p in trained]
    if not any(map(is_sharded, params)):
        return [[p] for p in reversed(params)]
    from torch.distributed.fsdp import FSDPModule

    layers = [part for part in module.modules() if isinstance(part, FSDPModule)]
    layer_of = {p: k for k, layer in enumerate(layers) for p in layer.parameters()}
    together: dict[int, list[Tensor]] = {}
    for p in reversed(params):  # those of no layer by themselves, before the root's, the first
        together.setdefault(layer_of.get(p, -1 - len(together)), []).append(p)
    root = together.pop(0, None)
    return [*together.values(), *([root] if root else [])]


def _bytes_of(params: list[Tensor] | list[nn.Parameter]) -> int:
    return sum(local_tensor(p).nbytes for p in params)
