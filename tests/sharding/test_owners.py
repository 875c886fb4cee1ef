"""Who owns which part of a sharded tensor, what each process has of it, and what is sent."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_optim import SOAP, Muon, Shampoo
from lit_optim.optimizers.base.layout import Layout
from lit_optim.sharding.boxes import count_elements, held_ranges, intersect
from lit_optim.sharding.owners import Part, Work, assign, count_held, held_by_rank
from tests.sharding.processes import processes

#: A layer of GPT-2: queries, keys and values, their projection, and the MLP.
GPT2 = [((2304, 768), 3), ((768, 768), 1), ((3072, 768), 1), ((768, 3072), 1)]


def rows_of(shape, world):
    """What each of some processes has of a tensor that FSDP2 divides by its rows."""
    from torch.distributed.tensor import Shard

    return tuple(held_ranges(shape, (Shard(0),), (world,), (rank,)) for rank in range(world))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("make", [Muon, SOAP, Shampoo])
def test_two_layers_of_gpt2_are_divided_evenly_and_little_is_sent(make, world):
    optimizer = make([{"params": [nn.Parameter(torch.empty(4, 4))], "role": "hidden"}])
    group, works, boxes = optimizer.param_groups[0], [], []
    for shape, split in GPT2 * 2:
        p, held = torch.empty(shape, device="meta"), rows_of(shape, world)
        cost = optimizer.flops(shape[0] // split, shape[1], group)
        for box in Layout(split).boxes(p):
            works.append(Work(cost, count_held(held, box)))
            boxes.append(box)
    loads = [0.0] * world
    owners = assign(works, loads)
    assert sum(loads) == pytest.approx(sum(work.cost for work in works))
    assert max(loads) <= 1.1 * sum(loads) / world
    lacked = [sum(work.held) - work.held[owner] for work, owner in zip(works, owners, strict=True)]
    least = sum(sum(work.held) - max(work.held) for work in works)
    assert sum(lacked) <= 1.05 * least


def test_costs_count_not_numbers():
    works = [Work(cost, [1, 1]) for cost in (1.0, 6.0, 2.0, 3.0)]
    loads = [0.0, 0.0]
    owners = assign(works, loads)
    assert sorted(loads) == [6.0, 6.0]
    assert owners[0] == owners[2] == owners[3] != owners[1]
    more = assign([Work(1.0, [0, 9]), Work(1.0, [0, 9])], loads)
    assert sorted(more) == [0, 1]  # not both to the one that has them


PLACEMENTS = {
    2: ["s0", "s1", "r"],
    3: ["s0", "s1"],
    4: ["s0 s0", "s0 s1", "s1 s0", "r s0", "s1 r", "fsdp s0", "fsdp s1"],
}


def spread_as(x, name):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    kinds, own = {"s0": Shard(0), "s1": Shard(1), "r": Replicate()}, name.split()
    world = torch.distributed.get_world_size()
    dims = (world,) if len(own) == 1 else (2, world // 2)
    mesh = init_device_mesh("cpu", dims, mesh_dim_names=("a", "b")[: len(dims)])
    if own[0] != "fsdp":
        return distribute_tensor(x, mesh, [kinds[kind] for kind in own])
    module = nn.Module()  # tensor parallel first, and then its rows are divided again
    module.x = nn.Parameter(distribute_tensor(x, mesh["b"], [kinds[own[1]]]))
    return fully_shard(module, mesh=mesh["a"]).x.detach()


def compare_with_torch(names):
    found = 0
    for shape in ((8, 6), (5, 7), (1, 3), (13, 2, 3)):
        x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
        for name in names:
            spread = spread_as(x, name)
            local, held = spread.to_local(), held_by_rank(spread)
            everything = tuple((0, side) for side in shape)
            pieces = intersect(held[torch.distributed.get_rank()], everything)
            assert sum(count_elements(of_shard) for of_shard, _ in pieces) == local.numel()
            for of_shard, of_whole in pieces:
                assert torch.equal(local[of_shard], x[of_whole]), (name, shape)
                found += 1
    return found


@pytest.mark.parametrize("size", sorted(PLACEMENTS))
def test_each_process_has_what_torch_gives_it(size):
    assert sum(processes(size).run(compare_with_torch, PLACEMENTS[size])) >= 4 * size


class Sent(TorchDispatchMode):
    """The bytes that this process sends to owners and back."""

    def __init__(self):
        super().__init__()
        self.bytes, self.events = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().startswith("c10d::alltoall_base"):
            self.bytes += args[1].nbytes
            self.events.append("send")
        return func(*args, **kwargs or {})


def step_layers(name, at_once):
    """The bytes sent in a step, how many matrices are computed here, and what comes after what."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    import lit_optim
    from lit_optim.sharding import exchange

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    params = [
        nn.Parameter(distribute_tensor(torch.randn(m // 32, n // 32), mesh, [Shard(0)]))
        for (m, n), _ in GPT2 * 2
    ]
    splits = [split for _, split in GPT2 * 2]
    groups = [{"params": [p], "split": s} for p, s in zip(params, splits, strict=True)]
    optimizer = getattr(lit_optim, name)([{**group, "role": "hidden"} for group in groups])
    done, sent, real = [], Sent(), optimizer.direction

    def direction(x, s, h):
        done.append(len(x))
        sent.events.append("compute")
        return real(x, s, h)

    optimizer.direction = direction
    for p in params:
        p.grad = distribute_tensor(torch.randn(p.shape), mesh, [Shard(0)])
    before = exchange.ROUND[True]
    exchange.ROUND[True] = at_once
    try:
        with sent:
            optimizer.step()
    finally:
        exchange.ROUND[True] = before
    return sent.bytes, sum(done), sent.events


@pytest.mark.parametrize("at_once", [1 << 20, 1])
@pytest.mark.parametrize("world", [2, 4])
def test_what_is_sent_is_the_least(world, at_once):
    found = processes(world).run(step_layers, "Muon", at_once)
    least = 0
    for (m, n), split in GPT2 * 2:
        p = torch.empty(m // 32, n // 32, device="meta")
        for box in Layout(split).boxes(p):
            held = count_held(rows_of(tuple(p.shape), world), box)
            least += 2 * 4 * (sum(held) - max(held))
    assert sum(sent for sent, _, _ in found) <= 1.05 * least
    assert sum(done for _, done, _ in found) == 12  # each matrix once
    if at_once == 1:  # the next round is under way while one computes
        rounds = 12 // world
        expected = ["send", *["send", "compute", "send"] * (rounds - 1), "compute", "send"]
        assert all(events == expected for _, _, events in found)
    else:
        assert all(events.count("send") == 2 for _, _, events in found)


def test_a_copy_is_sent_by_one_process_only():
    held = rows_of((4, 2), 2) * 2  # two copies of two shards
    from lit_optim.sharding.exchange import plan_rounds

    for owner in range(4):
        part = Part(((0, 4), (0, 2)), held, owner, None)
        sent = [plan_rounds((part,), (0,), rank, 4, 1)[0].sent for rank in range(4)]
        pieces = [piece for routes in sent for own in routes for piece in own]
        assert len(pieces) == 1  # the owner has the other half


def train_aside():
    """Two of three processes, in a mesh of two dimensions of their own."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = DeviceMesh("cpu", [[0], [2]])
    if torch.distributed.get_rank() == 1:
        return None
    x = torch.linspace(-1, 1, 30).view(5, 6)
    p = nn.Parameter(distribute_tensor(x, mesh, [Shard(0), Replicate()]))
    p.grad = distribute_tensor(x.cos(), mesh, [Shard(0), Replicate()])
    Muon([{"params": [p], "role": "hidden"}]).step()
    return p.full_tensor().detach()


def test_a_mesh_may_be_a_part_of_the_world():
    p = nn.Parameter(torch.linspace(-1, 1, 30).view(5, 6))
    p.grad = p.detach().cos()
    Muon([{"params": [p], "role": "hidden"}]).step()
    results = processes(3).run(train_aside)
    assert results[1] is None
    for q in (results[0], results[2]):
        torch.testing.assert_close(p.detach(), q)


def grow(how):
    """Owners stay when a group is added, and in copies of the optimizer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,)) if how else None

    def made(shape, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return nn.Parameter(distribute_tensor(x, mesh, [Shard(0)]) if how else x)

    def train(optimizer, seed):
        for k, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            g = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + k)).double()
            p.grad = distribute_tensor(g, mesh, [Shard(0)]) if how else g
        optimizer.step()

    optimizer = SOAP([{"params": [made((6, 5), 1), made((4, 5), 2)], "role": "hidden"}])
    train(optimizer, 10)
    first = dict(optimizer.matrix_owners.ranks)
    if how == "copied":
        optimizer = copy.deepcopy(optimizer)
    elif how == "pickled":
        optimizer = pickle.loads(pickle.dumps(optimizer))
    optimizer.add_param_group({"params": [made((9, 8), 3)], "role": "hidden"})
    train(optimizer, 20)
    train(optimizer, 30)
    ranks = list(optimizer.matrix_owners.ranks.values())
    if how:
        assert ranks[:2] == list(first.values())
        assert len(ranks) == 3
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.full_tensor().detach() if how else p.detach() for p in params]


@pytest.mark.parametrize("how", ["kept", "copied", "pickled"])
def test_owners_stay(how):
    expected = grow("")
    for result in processes(2).run(grow, how):
        for p, q in zip(result, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
