"""Trains parameters of given shapes with given gradients, sharded and by one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import lit_optim

#: A placement: the dimension that is divided, or None for copies.
Placements = Sequence[int | None]

#: Vectors, matrices, filters; lengths that processes do not divide, or that are too short for all.
SHAPES = [(7,), (1,), (5, 7), (1, 9), (4, 6), (4, 3, 3, 2)]


def values(shapes: Sequence[tuple[int, ...]], seed: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in shapes]  # fmt: skip


def shard(x: Tensor, mesh: Any, placements: Placements) -> Tensor:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    found = [Replicate() if dim is None or dim >= x.ndim else Shard(dim) for dim in placements]
    return distribute_tensor(x, mesh, found, src_data_rank=None)


def whole(x: Tensor) -> Tensor:
    full = getattr(x, "full_tensor", None)
    return (x if full is None else full()).detach().clone()


def train(
    name: str,
    arguments: dict[str, Any],
    shapes: Sequence[tuple[int, ...]],
    mesh_shape: tuple[int, ...] = (),
    placements: Placements = (),
    dtype: torch.dtype = torch.float64,
    updates: int = 4,
    wrap: Callable[[Any], Any] | None = None,
    scale: float = 1.0,
) -> list[Tensor]:
    """The whole parameters after some updates; sharded where a shape of the mesh is given."""
    mesh = None
    if mesh_shape:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", mesh_shape)

    def place(x: Tensor) -> Tensor:
        return shard(x, mesh, placements) if mesh_shape else x

    params = [nn.Parameter(place(x)) for x in values(shapes, 0, dtype)]
    optimizer = getattr(lit_optim, name)(params, **arguments)
    for k in range(updates):
        for i, (p, g) in enumerate(zip(params, values(shapes, 1 + k, dtype), strict=True)):
            p.grad = None if k == 0 and i == 1 else place(scale * g)  # the second one is late
        optimizer.step()
    return [whole(p) for p in params]
