"""Whole tensors of sharded ones, and back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lit_optim.sharding.placement import is_sharded, local_tensor
from lit_optim.sharding.saved import divide


@torch.no_grad()
def gather_wholes(value: Any) -> Any:
    """Gather the DTensors anywhere in nested containers, on the CPU of rank 0.

    All processes call it with the same structure. One tensor at a time is whole on the others,
    which get an empty one in its place.
    """
    if isinstance(value, dict):
        return type(value)((key, gather_wholes(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(gather_wholes(item) for item in value)
    if not is_sharded(value):
        return value
    whole = value.full_tensor().detach()
    return whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0, device="cpu")


@torch.no_grad()
def shard_like(whole: Any, p: Any) -> Any:
    """Return the shards of a whole tensor that every process has, spread as p; nothing is sent.

    What is no whole tensor of p's shape, or where p is not sharded, is returned as it is.
    """
    if not (isinstance(whole, Tensor) and is_sharded(p)) or is_sharded(whole):
        return whole
    if whole.shape != p.shape:
        return whole
    return divide(whole.to(local_tensor(p).device), p.device_mesh, p.placements)


def free_gathered(module: nn.Module) -> None:
    """Free the whole parameters that a forward of FSDP2 without a backward has left in a module.

    They would hide the sharded ones, and stay as they are where those change.
    """
    for part in module.modules():
        if callable(reshard := getattr(part, "reshard", None)) and hasattr(part, "unshard"):
            reshard()
