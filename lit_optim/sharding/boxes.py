"""Which elements of a tensor each process has, and those that it has in common with a box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

#: From the first index on, up to the last one, which is not in it.
Range = tuple[int, int]
#: A range of each dimension of a tensor.
Box = tuple[Range, ...]
#: What a process has of a tensor: of each dimension, the ranges in the order of its shard. There is
#: one, but for uneven shards in two dimensions of a mesh.
Held = tuple[tuple[Range, ...], ...]
Slices = tuple[slice, ...]


@lru_cache(maxsize=4096)
def held_ranges(
    shape: tuple[int, ...],
    placements: tuple[Any, ...],
    mesh_shape: tuple[int, ...],
    coordinate: tuple[int, ...],
) -> Held:
    """What a process has of a tensor.

    Args:
        shape: of the tensor.
        placements: of the tensor, one for each dimension of the mesh.
        mesh_shape: of the mesh.
        coordinate: the place of the process in the mesh.
    """
    held: list[list[Range]] = [[(0, size)] for size in shape]
    for placement, parts, part in zip(placements, mesh_shape, coordinate, strict=True):
        dim = getattr(placement, "dim", None)
        if dim is None:  # it has all of what the others have
            continue
        strides = getattr(placement, "split_factor", 1)  # of FSDP2 over tensor parallelism
        held[dim] = [
            taken
            for stride in range(strides)
            for taken in _chunk(_chunk(held[dim], strides, stride), parts, part)
        ]
    return tuple(tuple(_join(ranges)) for ranges in held)


def _chunk(ranges: Sequence[Range], parts: int, part: int) -> list[Range]:
    """A part of what is in some ranges, as `torch.chunk` divides it."""
    total = sum(stop - start for start, stop in ranges)
    size = -(-total // parts)
    first, last = min(part * size, total), min((part + 1) * size, total)
    taken, offset = [], 0
    for start, stop in ranges:
        low, high = max(first - offset, 0), min(last - offset, stop - start)
        if low < high:
            taken.append((start + low, start + high))
        offset += stop - start
    return taken


def _join(ranges: Sequence[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def intersect(held: Held, box: Box) -> list[tuple[Slices, Slices]]:
    """What a shard and a box of the same tensor have in common.

    Returns:
        pairs of slices, of the shard and of the box, that have the same elements.
    """
    by_dim = [_intersect(ranges, side) for ranges, side in zip(held, box, strict=True)]
    pairs = product(*by_dim)
    return [(tuple(s for s, _ in pair), tuple(s for _, s in pair)) for pair in pairs]


def count_elements(slices: Slices) -> int:
    """The number of elements that slices select."""
    return math.prod(s.stop - s.start for s in slices)


def _intersect(ranges: Sequence[Range], side: Range) -> list[tuple[slice, slice]]:
    found, offset = [], 0
    for start, stop in ranges:
        low, high = max(start, side[0]), min(stop, side[1])
        if low < high:
            local = slice(low - start + offset, high - start + offset)
            found.append((local, slice(low - side[0], high - side[0])))
        offset += stop - start
    return found
