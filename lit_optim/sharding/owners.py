"""Who computes with which parts of sharded tensors: each part has one owner."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor

from lit_optim.sharding.boxes import Box, Held, held_ranges

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: The groups of all processes of a mesh, by the default group and their ranks.
_groups: dict[tuple[ProcessGroup, tuple[int, ...]], ProcessGroup] = {}


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a sharded tensor.

    Args:
        box: of the tensor.
        held: what each process of the group has of the tensor, by its rank in the group.
        owner: the rank, in the group, of the process that gets the part whole.
        group: the processes that have shards of the tensor.
    """

    box: Box
    held: tuple[Held, ...]
    owner: int
    group: ProcessGroup

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(stop - start for start, stop in self.box)

    @property
    def is_mine(self) -> bool:
        """Whether this process is the owner."""
        return self.owner == dist.get_rank(self.group)


class Owners:
    """The owners of the parts of sharded tensors. An owner stays: it keeps the states of a part."""

    def __init__(self) -> None:
        #: The rank of the owner of each part, within the sorted ranks of the mesh.
        self.ranks: dict[Tensor, tuple[int, ...]] = {}
        #: The work of each process, by the sorted ranks of the mesh.
        self.loads: dict[tuple[int, ...], list[float]] = {}
        self._parts: dict[Tensor, tuple[Any, list[Part]]] = {}

    def assign(self, costs: Iterable[tuple[Tensor, Sequence[float]]]) -> None:
        """Give the parts of tensors that have no owners yet to those with the least work.

        Args:
            costs: DTensors, and the cost of each part of each. All processes of a mesh give the
                same, in the same order.
        """
        new = [(p, own) for p, own in costs if p not in self.ranks]
        by_mesh: dict[tuple[int, ...], list[tuple[Tensor, Sequence[float]]]] = {}
        for p, own in new:
            by_mesh.setdefault(ranks_of(p), []).append((p, own))
        for ranks, members in by_mesh.items():
            loads = self.loads.setdefault(ranks, [0.0] * len(ranks))
            owners = assign([own for _, own in members], loads)
            self.ranks |= {p: tuple(own) for (p, _), own in zip(members, owners, strict=True)}

    def parts(self, p: Tensor, boxes: Sequence[Box]) -> list[Part]:
        """The parts of a tensor that has owners.

        Args:
            p: a DTensor.
            boxes: of its parts; they are the same in each call.
        """
        spec = p._spec  # type: ignore[attr-defined]
        kept = self._parts.get(p)
        if kept is None or (kept[0] is not spec and kept[0] != spec):
            held, group = held_by_rank(p), group_of(p)
            owners = self.ranks[p]
            parts = [Part(b, held, o, group) for b, o in zip(boxes, owners, strict=True)]
            kept = self._parts[p] = spec, parts
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"ranks": self.ranks, "loads": self.loads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _parts={})


def assign(costs: Sequence[Sequence[float]], loads: list[float]) -> list[list[int]]:
    """Give each part to the process with the least work so far, the most costly parts first.

    Args:
        costs: of the parts of each tensor.
        loads: the work of each process; the costs are added.

    Returns:
        the numbers of the owners of the parts of each tensor.
    """
    owners = [[0] * len(own) for own in costs]
    places = [(-cost, i, k) for i, own in enumerate(costs) for k, cost in enumerate(own)]
    heap = [(load, rank) for rank, load in enumerate(loads)]
    heapq.heapify(heap)
    for negative, i, k in sorted(places):
        load, rank = heapq.heappop(heap)
        owners[i][k], loads[rank] = rank, load - negative
        heapq.heappush(heap, (loads[rank], rank))
    return owners


def ranks_of(p: Tensor) -> tuple[int, ...]:
    """The sorted global ranks of the processes that have shards of a DTensor."""
    return tuple(sorted(p.device_mesh.mesh.flatten().tolist()))  # type: ignore[attr-defined]


def held_by_rank(p: Tensor) -> tuple[Held, ...]:
    """What each process has of a DTensor, in the order of their ranks."""
    mesh = p.device_mesh.mesh  # type: ignore[attr-defined]
    coordinates = {int(mesh[place]): place for place in product(*map(range, mesh.shape))}
    placements, shape = p.placements, tuple(p.shape)  # type: ignore[attr-defined]
    return tuple(
        held_ranges(shape, placements, tuple(mesh.shape), coordinates[rank]) for rank in ranks_of(p)
    )


def group_of(p: Tensor) -> ProcessGroup:
    """The group of all processes that have shards of a DTensor.

    For a mesh of several dimensions that is not the whole world, it is made when it is first
    needed, by all of them.
    """
    mesh, ranks = p.device_mesh, ranks_of(p)  # type: ignore[attr-defined]
    if mesh.ndim == 1:
        group: ProcessGroup = mesh.get_group(0)
        if dist.get_process_group_ranks(group) == list(ranks):
            return group
    world = dist.group.WORLD
    assert world is not None
    if ranks == tuple(range(dist.get_world_size())):
        return world
    key = world, ranks
    if key not in _groups:
        _groups[key] = dist.new_group(list(ranks), use_local_synchronization=True)
    return _groups[key]
