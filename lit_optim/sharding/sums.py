"""Sums over tensors that are spread over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lit_optim.sharding.placement import Sharding, local_tensor


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
        """Add up all requests of a sharding by one message for each dimension of its mesh."""
        answers: dict[int, Tensor] = {}
        kinds: dict[Sharding, list[int]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(request.sharding, []).append(i)
        for sharding, places in kinds.items():
            message = torch.cat([requests[i].values for i in places])
            home, message = message.device, message.to(sharding.device_type)
            for group in sharding.groups():
                dist.all_reduce(message, group=group)
            message = message.to(home)  # of shards that are kept on the CPU
            parts = torch.split(message, [len(requests[i].values) for i in places])
            answers |= dict(zip(places, parts, strict=True))
        return [answers[i] for i in range(len(requests))]


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
