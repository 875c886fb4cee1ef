"""States that were saved on one number of processes, for another one.

A saved tensor is whole, as from one process, or a DTensor. What a process needs of it is the shard
that belongs to the tensor it is loaded into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.sharding.placement import is_sharded, local_tensor


def fit(value: Tensor, like: Tensor) -> Tensor:
    """The shard of a saved tensor for this process, if it is divided as `like` is.

    All processes call it for the same tensors in the same order: it may send messages.

    Raises:
        UsageError: it is spread over the processes of another run.
    """
    if is_sharded(value) and _is_alike(value, like):
        _check_mesh(value, like)
        return local_tensor(value)
    value = gather(value, like)
    if not is_sharded(like):
        return value
    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return local_tensor(divide(value.detach().to(local_tensor(like).device), mesh, placements))


def gather(value: Tensor, like: Tensor) -> Tensor:
    """All of a saved tensor, which all processes that `like` is spread over call for together."""
    if is_sharded(value):
        _check_mesh(value, like)
        value = value.full_tensor()  # type: ignore[attr-defined]
    return value


def divide(whole: Tensor, mesh: Any, placements: Sequence[Any]) -> Tensor:
    """The DTensor of a tensor that every process has; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    copies = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return copies.redistribute(mesh, placements)


def join(local: Tensor, like: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """The DTensor with these shards, placed as `like` is; the shard itself if that is none.

    Args:
        local: the shard of this process.
        like: a tensor whose first dimensions are divided in the same way.
        shape: of the whole; that of `like` by default.
    """
    if not is_sharded(like):
        return local
    from torch.distributed.tensor import DTensor

    size = torch.Size(like.shape if shape is None else shape)
    strides = [1]
    for length in reversed(size[1:]):
        strides.insert(0, strides[0] * max(length, 1))
    stride = like.stride() if shape is None else tuple(strides[-len(size) :])
    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=size, stride=tuple(stride)
    )


def copy_like(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a saved tensor, on the device of `like` and divided as it is; see `fit`."""
    part = fit(value, like).to(local_tensor(like).device, copy=True)
    return join(part, like)


def check_form(owner: str, state_dict: Any) -> dict[str, Any]:
    """Check that something has the form of a state dict.

    Raises:
        UsageError: it does not.
    """
    given: dict[str, Any] = state_dict if isinstance(state_dict, dict) else {}
    states, groups = given.get("state"), given.get("param_groups")
    has_states = isinstance(states, dict) and all(isinstance(x, dict) for x in states.values())
    has_groups = isinstance(groups, list | tuple) and all(
        isinstance(group, dict) and isinstance(group.get("params"), list | tuple)
        for group in groups
    )
    if not (has_states and has_groups):
        raise UsageError(
            f"{owner}: what is loaded is not the state dict of an optimizer, which has the states "
            "of parameters and the param_groups"
        )
    return given


def _is_alike(value: Any, like: Any) -> bool:
    """Whether two tensors are DTensors that are divided alike."""
    if not is_sharded(like) or value.device_mesh != like.device_mesh:
        return False
    return tuple(value.placements) == tuple(like.placements)


def _check_mesh(value: Any, like: Any) -> None:
    """Reject a DTensor that was made in a run with other processes, or by another process."""
    mesh, processes = value.device_mesh, 1
    if dist.is_available() and dist.is_initialized():
        processes = dist.get_world_size()
    fits = processes == mesh.size() and dist.is_initialized()
    if is_sharded(like) and mesh == like.device_mesh:
        # where one process loads the file of another, their shards may differ in length
        comparable = value.shape == like.shape and _is_alike(value, like)
        fits = not comparable or local_tensor(value).shape == local_tensor(like).shape
    if not fits:
        raise UsageError(
            f"the saved state is one process's part of a state on {mesh.size()} processes, which "
            f"does not fit this run on {processes}: save it by torch.distributed.checkpoint, or "
            "whole (full_state_dict=True)"
        )
