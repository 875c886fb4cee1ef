"""Who computes with which parts of sharded tensors: each part has one owner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from lit_optim.sharding.boxes import Box, Held, count_elements, held_ranges, intersect
from lit_optim.sharding.placement import is_sharded

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: Work that differs by less than this share of the next part counts as the same.
SLACK = 1 / 64

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
        device_type: of messages between them; shards may be kept on the CPU.
    """

    box: Box
    held: tuple[Held, ...]
    owner: int
    group: ProcessGroup
    device_type: str = "cpu"

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

    def assign(self, costs: Iterable[tuple[Tensor, Sequence[Box], Sequence[float]]]) -> None:
        """Give the parts of tensors that have no owners yet to those with the least work.

        Args:
            costs: DTensors, their parts and the cost of each. All processes of a mesh give the
                same, in the same order.
        """
        by_mesh: dict[tuple[int, ...], list[tuple[Tensor, list[Work]]]] = {}
        for p, boxes, own in costs:
            if p not in self.ranks:
                held = held_by_rank(p)
                work = [Work(c, count_held(held, box)) for box, c in zip(boxes, own, strict=True)]
                by_mesh.setdefault(ranks_of(p), []).append((p, work))
        for ranks, members in by_mesh.items():
            loads = self.loads.setdefault(ranks, [0.0] * len(ranks))
            owners = iter(assign([one for _, work in members for one in work], loads))
            self.ranks |= {p: tuple(next(owners) for _ in work) for p, work in members}

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
            device = p.device_mesh.device_type  # type: ignore[attr-defined]
            parts = [Part(b, held, o, group, device) for b, o in zip(boxes, owners, strict=True)]
            kept = self._parts[p] = spec, parts
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"ranks": self.ranks, "loads": self.loads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _parts={})


class Work(NamedTuple):
    """The work on a part of a tensor.

    Args:
        cost: in any unit.
        held: the number of its elements that each process has, by rank.
    """

    cost: float
    held: Sequence[int]


def assign(works: Sequence[Work], loads: list[float]) -> list[int]:
    """Give each part to a process with the least work so far, the most costly parts first.

    Among processes with about the same work it goes to one that has most of it already.

    Args:
        works: on all parts.
        loads: the work of each process; the costs are added.

    Returns:
        the rank of the owner of each part.
    """
    owners = [0] * len(works)
    for i in sorted(range(len(works)), key=lambda i: -works[i].cost):
        cost, held = works[i]
        most = min(loads) + SLACK * cost
        near = [rank for rank, load in enumerate(loads) if load <= most]
        owners[i] = owner = max(near, key=lambda rank: (held[rank], -loads[rank]))
        loads[owner] += cost
    return owners


def count_held(held: Sequence[Held], box: Box) -> list[int]:
    """How many elements of a box each process has."""
    return [sum(count_elements(of_box) for _, of_box in intersect(own, box)) for own in held]


def ranks_of(p: Tensor) -> tuple[int, ...]:
    """The sorted global ranks of the processes that have shards of a DTensor."""
    return tuple(sorted(p.device_mesh.mesh.flatten().tolist()))  # type: ignore[attr-defined]


def count_processes(p: Tensor) -> int:
    """How many processes have shards of a parameter; 1 where it is none."""
    return int(p.device_mesh.size()) if is_sharded(p) else 1  # type: ignore[attr-defined]


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
        for old in [other for other in _groups if other[0] is not world]:
            del _groups[old]  # of processes that have been started anew
        _groups[key] = dist.new_group(list(ranks), use_local_synchronization=True)
    return _groups[key]
