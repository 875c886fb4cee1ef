"""Elementwise optimizers of sharded parameters train what one process trains."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lit_optim.optimizers.base.elementwise import Elementwise
from tests.kernels import requirements
from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, class_of
from tests.sharding.given_gradients import SHAPES, Placements, shard, values
from tests.sharding.layouts import make_mesh
from tests.sharding.processes import processes

RULES = [name for name in NAMES if issubclass(class_of(name), Elementwise)]
MESHES: dict[str, tuple[tuple[int, ...], Placements]] = {
    "rows": ((4,), [0]),
    "columns": ((3,), [1]),
    "copies": ((2,), [None]),
    "hybrid": ((2, 2), [None, 0]),
    "blocks": ((2, 2), [0, 1]),
    "rows twice": ((2, 2), [0, 0]),
}
OPTIONS: list[dict[str, Any]] = [
    {"cautious": True},
    {"clip_update": 0.3},
    {"trust_ratio": True},
    {"hyperball": True, "weight_decay": 0.0},
    {"cautious": True, "clip_update": 0.3, "trust_ratio": True, "maximize": True},
    {"cautious_weight_decay": True, "trust_ratio": True, "decay": "independent"},
]


def place(x: Tensor, where: str) -> Tensor:
    """A tensor on a mesh; itself without one."""
    if not where:
        return x
    mesh, placements = MESHES[where]
    return shard(x, make_mesh(mesh), placements)


def train(
    name: str,
    arguments: dict[str, Any],
    shapes: list[tuple[int, ...]],
    dtype: torch.dtype,
    where: str = "",
) -> list[list[Tensor]]:
    """The parameters after three updates, each with its states, in this process; or its shards."""
    params = [nn.Parameter(place(x, where)) for x in values(shapes, 0, dtype)]
    half = len(params) // 2
    groups = [{"params": params[:half]}, {"params": params[half:], "lr": 0.02}]
    optimizer = class_of(name)(groups, **arguments)
    for k in range(3):
        for i, (p, g) in enumerate(zip(params, values(shapes, 1 + k, dtype), strict=True)):
            p.grad = None if k == 0 and i == 1 else place(g, where)  # the second one is late
        optimizer.step()
    found = []
    for p in params:
        states = [x for name, x in optimizer.state[p].items() if isinstance(x, Tensor)]
        found.append([x.detach() for x in (p, *states)])
    return found


def difference(cases: list[tuple[str, dict[str, Any]]], where: str, dtype: torch.dtype) -> Any:
    """The largest difference to one process for each case; each process trains that for itself."""
    found = {}
    shapes = SHAPES if dtype == torch.float64 else [(1024,), (6, 256)]
    for name, arguments in cases:
        alone = arguments | {"executor": "torch"} if dtype == torch.float64 else arguments
        rows = zip(
            train(name, arguments, shapes, dtype, where),
            train(name, alone, shapes, dtype),
            strict=True,
        )
        found[str((name, arguments))] = max(
            float((x.to_local().double() - place(y, where).to_local().double()).abs().sum())
            for ours, theirs in rows
            for x, y in zip(ours, theirs, strict=True)
            if hasattr(x, "to_local")
        )
    return found


def assert_equal(
    cases: list[tuple[str, dict[str, Any]]],
    where: str,
    most: float = 1e-10,
    dtype: torch.dtype = torch.float64,
) -> None:
    world = math.prod(MESHES[where][0])
    for found in processes(world).run(difference, cases, where, dtype):
        assert len(found) == len({str(case) for case in cases})
        assert {case: value for case, value in found.items() if not value <= most} == {}


SETTINGS = [(name, settings) for name in RULES for settings in CASES[name].settings]


def in_torch(cases: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, settings | {"executor": "torch"}) for name, settings in cases]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("where", MESHES)
def test_every_rule_in_every_setting(where):
    """Each on one of the meshes; by torch, which computes as the kernels do."""
    assert_equal(in_torch(SETTINGS[list(MESHES).index(where) :: len(MESHES)]), where)


@pytest.mark.slow
@pytest.mark.parametrize("where", MESHES)
def test_every_rule_in_every_setting_everywhere(where):
    assert_equal(in_torch(SETTINGS), where)


@requirements.compiler
@pytest.mark.parametrize("where", ["rows", pytest.param("blocks", marks=pytest.mark.slow)])
def test_every_rule_natively(where):
    assert_equal([(name, {"executor": "native"}) for name in RULES], where)


@pytest.mark.parametrize("executor", ["torch", pytest.param("auto", marks=requirements.compiler)])
@pytest.mark.parametrize(
    "where", ["rows", "blocks", pytest.param("copies", marks=pytest.mark.slow)]
)
def test_options_that_look_at_whole_tensors(where, executor):
    names = ["adamw"] if executor == "auto" else ["adamw", "lion"]
    assert_equal([(n, one | {"executor": executor}) for n in names for one in OPTIONS], where)


@pytest.mark.parametrize("where", ["rows", "hybrid", "columns"])
def test_low_precision_is_that_of_one_process_to_the_bit(where):
    """Rounding bits are those of positions in the whole tensor; blocks of 256 are rows."""
    whole = {"clip_update": 0.1, "cautious": True}
    kinds: list[dict[str, Any]] = [
        {"state_dtype": "bfloat16", "master": "split"},
        {"state_dtype": "int8", "master": "split"},
        {"state_dtype": "int8", "executor": "torch"},
        {"state_dtype": "bfloat16", "executor": "torch", **whole},
    ]
    names = ["adamw", "lion", "lamb", "schedule_free_adamw"]
    cases = [(name, kind) for name in names for kind in kinds[: 4 if name == "adamw" else 3]]
    if where == "columns":  # do not consist of whole blocks
        cases = [case for case in cases if case[1]["state_dtype"] != "int8"]
    assert_equal(cases, where, 0.0, torch.bfloat16)


def train_each_in_its_way(where: str) -> float:
    """The first process has kernels, the others have none: all send the same messages."""
    executor = "torch" if dist.get_rank() else "auto"
    options = OPTIONS[4] | {"executor": executor}
    return float(*difference([("adamw", options)], where, torch.float64).values())


@pytest.mark.parametrize("where", ["rows", "blocks"])
def test_processes_may_have_different_executors(where):
    assert max(processes(4).run(train_each_in_its_way, where)) <= 1e-10


def train_complex(where: str) -> float:
    """The largest difference of complex weights, computed as pairs of real ones."""
    results = []
    for mesh in (where, ""):
        x, *gradients = (
            torch.complex(*values([(5, 7), (5, 7)], k, torch.float64)) for k in range(4)
        )
        p = nn.Parameter(place(x, mesh))
        optimizer = class_of("lamb")([p], lr=0.1)
        for g in gradients:
            p.grad = place(g, mesh)
            optimizer.step()
        results.append(p.detach())
    return float((results[0].to_local() - place(results[1], where).to_local()).abs().sum())


@pytest.mark.parametrize("where", ["rows", "columns"])
def test_complex_parameters(where):
    assert max(processes(math.prod(MESHES[where][0])).run(train_complex, where)) <= 1e-10


def count_messages(
    name: str, arguments: dict[str, Any], where: str
) -> tuple[list[int], list[list[Tensor]]]:
    """The sizes of the messages of the third update."""
    sizes: list[int] = []
    reduce, gather = dist.all_reduce, dist.all_gather_into_tensor

    def counting_reduce(message: Tensor, *more: Any, **settings: Any) -> Any:
        sizes.append(message.numel())
        return reduce(message, *more, **settings)

    def counting_gather(gathered: Tensor, message: Tensor, *more: Any, **settings: Any) -> Any:
        sizes.append(message.numel())
        return gather(gathered, message, *more, **settings)

    dist.all_reduce, dist.all_gather_into_tensor = counting_reduce, counting_gather
    try:
        train(name, arguments, SHAPES, torch.float64, where)
    finally:
        dist.all_reduce, dist.all_gather_into_tensor = reduce, gather
    return sizes


@pytest.mark.parametrize(
    ("name", "arguments", "where", "sums"),
    [
        ("adamw", {}, "rows", []),
        ("lamb", {}, "copies", []),
        ("lamb", {}, "rows", [2]),
        ("lamb", {"executor": "torch"}, "rows", [2]),
        ("stable_adamw", {}, "hybrid", [1]),
        ("adamw", OPTIONS[4], "rows", [2, 1, 1]),
        ("lamb", {}, "rows twice", [2, 2]),  # a mesh of two dimensions
    ],
    ids=str,
)
def test_a_pass_is_one_message_for_all_tensors_of_all_groups(name, arguments, where, sums):
    world = math.prod(MESHES[where][0])
    for sizes in processes(world).run(count_messages, name, arguments, where):
        first, later = len(SHAPES) - 1, 2 * len(sums) * [len(SHAPES)]
        assert sizes == [k * first for k in sums] + [
            k * size for k, size in zip(2 * sums, later, strict=True)
        ]


def add_up_in_parts(at_once: int) -> list[list[float]]:
    """Sums over all processes, of one message and of one for each number."""
    from lit_optim.sharding import sums
    from lit_optim.sharding.placement import Sharding

    sums.AT_ONCE = at_once
    [x] = values([(17,)], dist.get_rank(), torch.float64)
    sharding = Sharding(make_mesh((dist.get_world_size(),)), (0,))
    together = sums.add_up([x.clone()], [sharding])
    apart = sums.add_up(list(x.split(1)), [sharding] * 17)
    one_by_one = [sums.add_up([part.clone()], [sharding])[0] for part in x.split(1)]
    return [torch.cat(found).tolist() for found in (together, apart, one_by_one)]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_sum_has_the_same_bits_whatever_it_is_sent_with(world):
    found = [
        one
        for at_once in (1 << 16, 0, 40)
        for results in processes(world).run(add_up_in_parts, at_once)
        for one in results
    ]
    assert all(one == found[0] for one in found)
    parts = [values([(17,)], rank, torch.float64)[0] for rank in range(world)]
    torch.testing.assert_close(torch.tensor(found[0], dtype=torch.float64), sum(parts))


def test_estimates_are_one_message():
    for sizes in processes(4).run(count_messages, "prodigy", {}, "rows"):
        assert sizes == [2, 2, 2]
