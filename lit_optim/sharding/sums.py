"""Sums over tensors that are spread over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from lit_optim.sharding.placement import Sharding, local_tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: How many numbers a process gets at most where each gets those of all others, and adds them up.
AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Sums:
    """Requests the sums, over all shards, of numbers that are sums over the local ones.

    The answer is a tensor like `values`.

    Args:
        values: the sums over the local shards, 1-D; in float64 where the device has it.
        sharding: of the tensors; all those of a request have the same.
    """

    values: Tensor
    sharding: Sharding

    @classmethod
    def answer(cls, requests: Sequence[Sums]) -> list[Tensor]:
        """Add up all requests of a sharding together, over each dimension of its mesh in turn."""
        answers: dict[int, Tensor] = {}
        kinds: dict[Sharding, list[int]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(request.sharding, []).append(i)
        for sharding, places in kinds.items():
            message = torch.cat([requests[i].values for i in places])
            home, message = message.device, message.to(sharding.device_type)
            for group in sharding.groups():
                message = _add_over(message, group)
            message = message.to(home)  # of shards that are kept on the CPU
            parts = torch.split(message, [len(requests[i].values) for i in places])
            answers |= dict(zip(places, parts, strict=True))
        return [answers[i] for i in range(len(requests))]


def _add_over(message: Tensor, group: ProcessGroup) -> Tensor:
    """The sums over the processes of a group.

    They are added in an order that depends on the number of processes alone, so that a sum has the
    same bits whatever it is sent with: `all_reduce` adds each part of a message in another order.
    """
    world, size = dist.get_world_size(group), len(message)
    if world <= 2:
        dist.all_reduce(message, group=group)
        return message
    if world * size <= AT_ONCE:
        gathered = message.new_empty(world * size)
        dist.all_gather_into_tensor(gathered, message, group=group)
        return _fold(gathered.view(world, size))
    share = -(-size // world)  # of the sums, which each process adds up
    sent, got = message.new_zeros(world * share), message.new_empty(world * share)
    sent[:size] = message
    dist.all_to_all_single(got, sent, group=group)
    dist.all_gather_into_tensor(sent, _fold(got.view(world, share)), group=group)
    return sent[:size]


def _fold(parts: Tensor) -> Tensor:
    """The sums over the first dimension: of its halves, again and again."""
    while (count := len(parts)) > 1:
        half = count // 2
        parts = torch.cat([parts[:half] + parts[half : 2 * half], parts[2 * half :]])
    return parts[0]


def has_nonzero(x: Tensor) -> bool:
    """Whether an element of a tensor, on whatever process, is not 0."""
    sharding, found = Sharding.of(x), local_tensor(x).any()
    if sharding is not None:
        [found] = Sums.answer([Sums(found.float().view(1), sharding)])
    return bool(found)


def add_up(values: Sequence[Tensor], shardings: Sequence[Sharding | None]) -> list[Tensor]:
    """The sums over whole tensors, of sums over local shards; in one message for each sharding.

    Args:
        values: a sum of each tensor, 1-D.
        shardings: of each tensor; None where this process has it whole.
    """
    pairs = zip(values, shardings, strict=True)
    answers = iter(Sums.answer([Sums(x, sharding) for x, sharding in pairs if sharding]))
    return [next(answers) if sharding else x for x, sharding in zip(values, shardings, strict=True)]


def are_zero(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements of some tensors are 0, on whatever process."""
    counts = [local_tensor(x).count_nonzero().to(torch.float32).view(1) for x in tensors]
    return not any(map(bool, add_up(counts, [Sharding.of(x) for x in tensors])))
