"""Which processes divide which dimension of a DTensor, and tensors that have one dimension less."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from lit_optim.sharding.placement import Sharding, local_tensor


def sharding_of_dimensions(p: Tensor, dims: Collection[int]) -> Sharding:
    """The processes over which a sum over some dimensions of a DTensor has to be added.

    Args:
        p: a DTensor.
        dims: dimensions of `p`, from 0 on.
    """
    placements: Any = p.placements  # type: ignore[attr-defined]
    found = [k for k, placement in enumerate(placements) if _dimension(placement) in dims]
    return Sharding(p.device_mesh, tuple(found))  # type: ignore[attr-defined]


def zeros_without_dimension(p: Tensor, dim: int, keeps: bool, dtype: torch.dtype) -> Tensor:
    """Zeros for a reduction of p over one dimension; sharded as p is in the other dimensions.

    Args:
        p: any tensor.
        dim: the dimension, from 0 on.
        keeps: whether it stays, with length 1.
        dtype: of the zeros.
    """
    local = local_tensor(p)
    shape, local_shape = list(p.shape), list(local.shape)
    for lengths in (shape, local_shape):
        lengths[dim : dim + 1] = [1] if keeps else []
    zeros = local.new_zeros(local_shape, dtype=dtype)
    if local is p:
        return zeros
    from torch.distributed.tensor import DTensor, Replicate

    placements = [
        Replicate() if _dimension(placement) == dim else _moved(placement, dim, keeps)
        for placement in p.placements  # type: ignore[attr-defined]
    ]
    strides = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        zeros,
        p.device_mesh,  # type: ignore[attr-defined]
        placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=strides,
    )


def _dimension(placement: Any) -> int | None:
    """The dimension that a placement divides."""
    return None if placement.is_replicate() else placement.dim


def _moved(placement: Any, dim: int, keeps: bool) -> Any:
    """The same placement of a tensor that has lost a dimension before it."""
    at = _dimension(placement)
    if keeps or at is None or at < dim:
        return placement
    if hasattr(placement, "split_factor"):
        return type(placement)(at - 1, split_factor=placement.split_factor)
    return type(placement)(at - 1)
