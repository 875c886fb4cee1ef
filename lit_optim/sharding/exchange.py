"""Whole parts of tensors go to their owners, and what these compute from them comes back.

It is done in rounds, so that what the next round needs is under way while one computes:

    gather 0;   gather 1, compute 0, scatter 0;   gather 2, compute 1, scatter 1;   ...

Only what its receiver lacks is sent, and by one process only, also where several have copies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from lit_optim.sharding.boxes import Slices, count_elements, intersect
from lit_optim.sharding.owners import Part

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: How many elements an owner gets in a round at most, on a CPU and elsewhere; at least one part.
ROUND = {True: 1 << 21, False: 1 << 26}

#: Given the numbers of some parts of a request and these parts whole, computes a result for each.
Compute = Callable[[list[int], list[Tensor]], list[Tensor]]


@dataclass(frozen=True, eq=False)
class Exchange:
    """Requests what the owners of parts of tensors compute from the whole parts.

    The answer is the local shard of each result, laid out like the shard it came from.

    Args:
        shards: the local shards of the tensors.
        parts: of each tensor; together they are all of it.
        compute: called on the owner, once or more. The results have the shapes of the parts.
        dtypes: of the results, for each tensor.
        stacks: of each tensor, the number of its stack: what is computed in one call are parts of
            one stack, whatever else is exchanged. Nothing: each tensor by itself.
    """

    shards: Sequence[Tensor]
    parts: Sequence[Sequence[Part]]
    compute: Compute
    dtypes: Sequence[torch.dtype]
    stacks: Sequence[int] = ()

    @classmethod
    def answer(cls, requests: Sequence[Exchange]) -> list[list[Tensor]]:
        """Exchange all tensors of a group of processes, of one dtype, in the same rounds."""
        runs: dict[Any, _Run] = {}
        answers: list[list[Tensor]] = []
        for request in requests:
            answers.append([])
            numbers = count()
            stacks = request.stacks or range(len(request.shards))
            columns = request.shards, request.parts, request.dtypes, stacks
            for shard, parts, dtype, stack in zip(*columns, strict=True):
                result = torch.empty_like(shard, dtype=dtype)
                answers[-1].append(result)
                for part in parts:
                    kind = part.group, part.device_type
                    key = *kind, shard.dtype, dtype, shard.device
                    run = runs.setdefault(key, _Run(*key))
                    run.jobs.append(_Job(request, next(numbers), stack, part, shard, result))
        for run in runs.values():
            run.finish()
        return answers


@dataclass(eq=False)
class _Job:
    """A part, and the shards of its tensor and of the result."""

    request: Exchange
    number: int
    stack: int
    part: Part
    shard: Tensor
    result: Tensor
    #: On the owner: the part and the result, whole.
    whole: Tensor | None = None


#: A piece of a message: the number of the job, and where it is in the shard and in the part.
Piece = tuple[int, Slices, Slices]


@dataclass
class Route:
    """What one process sends and gets in a round; back from the owners it is the reverse.

    Args:
        numbers: of the jobs whose parts this process owns.
        kept: the pieces of these that it has itself.
        sent: to each owner, the pieces that this process is the one to send.
        received: from each process, the pieces of what this process owns.
        sent_back: to each process, the pieces of results that it needs.
        received_back: from each owner, the pieces of results that this process needs.
    """

    world: int
    numbers: list[int] = field(default_factory=list)
    kept: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        columns: list[list[list[Piece]]] = [[[] for _ in range(self.world)] for _ in range(4)]
        self.sent, self.received, self.sent_back, self.received_back = columns


@lru_cache(maxsize=512)
def plan_rounds(
    parts: tuple[Part, ...], stacks: tuple[Any, ...], rank: int, world: int, most: int
) -> list[Route]:
    """Divide parts into rounds, the same on all processes.

    The parts of a stack that an owner has are in one round, or in several by their number alone:
    those of other stacks make no difference.

    Args:
        parts: all of them, in an order that is the same on all processes.
        stacks: what tells the stack of each from others; it can be sorted.
        rank: of this process.
        world: the number of processes.
        most: how many elements an owner gets in a round, but at least one part.
    """
    sizes = [torch.Size(part.shape).numel() for part in parts]
    pieces: dict[int, list[list[int]]] = {}  # of stacks, by owner
    for i in sorted(range(len(parts)), key=stacks.__getitem__):
        own = pieces.setdefault(parts[i].owner, [])
        is_next = bool(own) and stacks[own[-1][0]] == stacks[i]
        if not is_next or sum(sizes[k] for k in own[-1]) + sizes[i] > most:
            own.append([])
        own[-1].append(i)
    rounds: list[list[int]] = [[]]
    for own in pieces.values():
        now, filled = 0, 0
        for piece in own:
            size = sum(sizes[i] for i in piece)
            if filled and filled + size > most:
                now, filled = now + 1, 0
            filled += size
            while len(rounds) <= now:
                rounds.append([])
            rounds[now] += piece
    routes = []
    for members in rounds:
        routes.append(Route(world))
        for i in members:
            _add_part(routes[-1], i, parts[i], rank)
    return routes


def _add_part(route: Route, i: int, part: Part, rank: int) -> None:
    if part.owner == rank:
        route.numbers.append(i)
    holders: dict[Any, list[int]] = {}
    for other, held in enumerate(part.held):
        holders.setdefault(held, []).append(other)
    for held, ranks in holders.items():
        pieces = [(i, of_shard, of_part) for of_shard, of_part in intersect(held, part.box)]
        # one of several copies is sent, none if the owner has one
        sender = part.owner if part.owner in ranks else ranks[part.owner % len(ranks)]
        if part.owner == rank:
            if sender == rank:
                route.kept += pieces
            else:
                route.received[sender] += pieces
            for other in ranks:
                if other != rank:
                    route.sent_back[other] += pieces
        else:
            if sender == rank:
                route.sent[part.owner] += pieces
            if rank in ranks:
                route.received_back[part.owner] += pieces


class _Run:
    """The rounds of all requests with the same processes, dtypes and device."""

    def __init__(
        self,
        group: ProcessGroup,
        device_type: str,
        dtype: torch.dtype,
        back: torch.dtype,
        device: torch.device,
    ) -> None:
        self.group, self.device_type, self.device = group, device_type, device
        self.dtype, self.back = dtype, back
        self.jobs: list[_Job] = []

    def finish(self) -> None:
        """Run the rounds."""
        numbers: dict[int, int] = {}
        stacks = tuple(
            (numbers.setdefault(id(job.request), len(numbers)), job.stack) for job in self.jobs
        )
        parts = tuple(job.part for job in self.jobs)
        rank, world = dist.get_rank(self.group), dist.get_world_size(self.group)
        routes = plan_rounds(parts, stacks, rank, world, ROUND[self.device.type == "cpu"])
        gathered = self._gather(routes[0])
        before: tuple[Route, Message] | None = None
        for k, route in enumerate(routes):
            now = gathered
            if k + 1 < len(routes):
                gathered = self._gather(routes[k + 1])
            self._finish_gather(route, now)
            self._compute(route)
            scattered = self._scatter(route)
            if before is not None:
                self._finish_scatter(*before)
            before = route, scattered
        if before is not None:
            self._finish_scatter(*before)

    def _gather(self, route: Route) -> Message:
        pieces = [[self.jobs[i].shard[s] for i, s, _ in own] for own in route.sent]
        sizes = [_count(own) for own in route.received]
        return Message.start(pieces, sizes, self.dtype, self.device_type, self.group)

    def _finish_gather(self, route: Route, message: Message) -> None:
        for i in route.numbers:
            job = self.jobs[i]
            job.whole = torch.empty(job.part.shape, dtype=self.dtype, device=self.device)
        if route.kept:
            whole = [self.jobs[i].whole[p] for i, _, p in route.kept]  # type: ignore[index]
            torch._foreach_copy_(whole, [self.jobs[i].shard[s] for i, s, _ in route.kept])
        message.wait([self.jobs[i].whole[p] for i, _, p in _all(route.received)])  # type: ignore[index]

    def _compute(self, route: Route) -> None:
        stacks: dict[tuple[int, int], list[_Job]] = {}
        for i in route.numbers:
            job = self.jobs[i]
            stacks.setdefault((id(job.request), job.stack), []).append(job)
        for jobs in stacks.values():
            numbers = [job.number for job in jobs]
            wholes = [job.whole for job in jobs]
            results = jobs[0].request.compute(numbers, wholes)  # type: ignore[arg-type]
            for job, result in zip(jobs, results, strict=True):
                job.whole = result

    def _scatter(self, route: Route) -> Message:
        pieces = [
            [self.jobs[i].whole[p] for i, _, p in own]  # type: ignore[index]
            for own in route.sent_back
        ]
        sizes = [_count(own) for own in route.received_back]
        message = Message.start(pieces, sizes, self.back, self.device_type, self.group)
        for i, of_shard, of_part in route.kept:
            self.jobs[i].result[of_shard] = self.jobs[i].whole[of_part]  # type: ignore[index]
        for i in route.numbers:
            self.jobs[i].whole = None
        return message

    def _finish_scatter(self, route: Route, message: Message) -> None:
        message.wait([self.jobs[i].result[s] for i, s, _ in _all(route.received_back)])


def scatter(parts: Sequence[Part], wholes: Sequence[Tensor | None], shard: Tensor) -> None:
    """Fill the shards of a tensor from parts of it that their owners have.

    Args:
        parts: of the tensor.
        wholes: each part on its owner; None elsewhere.
        shard: the local shard, which is written.
    """
    group = parts[0].group
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    (route,) = plan_rounds(tuple(parts), (0,) * len(parts), rank, world, sys.maxsize)
    pieces = [[wholes[i][p] for i, _, p in own] for own in route.sent_back]  # type: ignore[index]
    sizes = [_count(own) for own in route.received_back]
    message = Message.start(pieces, sizes, shard.dtype, parts[0].device_type, group)
    for i, of_shard, of_part in route.kept:
        shard[of_shard] = wholes[i][of_part]  # type: ignore[index]
    message.wait([shard[s] for _, s, _ in _all(route.received_back)])


def _all(columns: Iterable[list[Piece]]) -> list[Piece]:
    return [piece for own in columns for piece in own]


def _count(pieces: Iterable[Piece]) -> int:
    """The number of elements of some pieces."""
    return sum(count_elements(of_part) for _, _, of_part in pieces)


@dataclass
class Message:
    """Tensors on their way between all processes of a group."""

    buffer: Tensor
    #: Kept until it has been sent.
    sent: Tensor
    #: None if there is nobody to send to.
    work: Any

    @classmethod
    def start(
        cls,
        pieces: list[list[Tensor]],
        sizes: list[int],
        dtype: torch.dtype,
        device_type: str,
        group: ProcessGroup,
    ) -> Message:
        """Send tensors to each process.

        Args:
            pieces: for each process, what is sent to it.
            sizes: how many elements come from each process.
            dtype: of what is sent.
            device_type: of the message.
            group: the processes.
        """
        counts = [sum(x.numel() for x in own) for own in pieces]
        sent = torch.empty(sum(counts), dtype=dtype, device=device_type)
        _copy([x for own in pieces for x in own], sent, pack=True)
        buffer = torch.empty(sum(sizes), dtype=dtype, device=device_type)
        if len(pieces) == 1:
            return cls(buffer, sent, None)
        width = sent.element_size()
        work = dist.all_to_all_single(  # as bytes: not every backend knows every dtype
            buffer.view(torch.uint8),
            sent.view(torch.uint8),
            [size * width for size in sizes],
            [count * width for count in counts],
            group,
            async_op=True,
        )
        return cls(buffer, sent, work)

    def wait(self, places: list[Tensor]) -> None:
        """Wait for what comes, and copy it to its places, in order of their processes."""
        if self.work is not None:
            self.work.wait()
        _copy(places, self.buffer, pack=False)


def _copy(tensors: list[Tensor], buffer: Tensor, pack: bool) -> None:
    """Copy tensors into a buffer, one after the other, or out of it."""
    if not tensors:
        return
    ends = accumulate(x.numel() for x in tensors)
    views = [
        buffer[end - x.numel() : end].view(x.shape) for x, end in zip(tensors, ends, strict=True)
    ]
    torch._foreach_copy_(views if pack else tensors, tensors if pack else views)
