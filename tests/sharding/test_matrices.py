"""Matrices of sharded parameters are updated by their owners as one process updates them."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from lit_optim.kernels.precision import State
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.types import Beta, NonNegative
from tests.optimizers.cases_matrix import MATRIX
from tests.optimizers.running import class_of
from tests.sharding.processes import processes

METHODS = sorted(MATRIX)
TOLERANCE = {"rtol": 0, "atol": 1e-10}
#: Name: the shapes of the parameters of a group, and their layout.
SHAPES = {
    "alike": ([(6, 5)] * 3, {}),
    "others": ([(5, 7), (3, 8), (6, 5)], {}),
    "split": ([(12, 5), (9, 4)], {"split": 3}),
    "turned": ([(4, 9)], {"split": 3, "transposed": True}),
    "conv": ([(4, 2, 3, 3)], {}),
    "none": ([(0, 5)], {}),
}
#: The shape of the mesh, and the placements: s0 and s1 are shards of a dimension, r are copies.
MESHES = {
    2: [((2,), "s0"), ((2,), "s1"), ((2,), "r")],
    3: [((3,), "s0")],
    4: [((4,), "s0"), ((2, 2), "r s0"), ((2, 2), "s0 s1"), ((2, 2), "s0 s0"), ((2, 2), "s1 r")],
}
CASES = [(size, shape, where) for size, cases in MESHES.items() for shape, where in cases]
#: By default these are tested with all placements, the other methods with two.
EVERYWHERE, SAMPLE = ("muon", "soap"), [(2, (2,), "s0"), (4, (2, 2), "s0 s1")]
PLACES = [
    pytest.param(name, case, marks=[] if name in EVERYWHERE or case in SAMPLE else pytest.mark.slow)
    for name in METHODS
    for case in CASES
]


class Mixed(Matrixwise):
    """One that is nobody's: states of both kinds, a hyperparameter in both, and no `flops`.

    Args:
        params: matrices.
        lr: the step size.
        beta: decay rate of both averages.
        weight_decay: decoupled.
    """

    lr: NonNegative = 0.1
    beta: Beta = 0.8
    weight_decay: NonNegative = 0.1

    states: ClassVar = {"m": State(), "v": State("non-negative")}
    prepared = ("m",)
    row_states = ("r",)

    def prepare(self, g, p, s, h):
        m = h.beta * s.m + (1 - h.beta) * (g + 0.1 * p)
        return m - 0.5 * g, {"m": m}

    def direction(self, x, s, h):
        v = h.beta * s.v + (1 - h.beta) * x * x
        r = h.beta * s.r + x.abs().amax(-1, keepdim=True)
        return (x / (v.sqrt() + 0.1)).cumsum(-2) / r, {"v": v, "r": r}


def groups(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "params": [
                nn.Parameter(torch.randn(shape, generator=generator).double()) for shape in shapes
            ],
            "param_names": [f"{name}.{i}" for i in range(len(shapes))],
            "name": name,
            "role": "hidden",
            **layout,
        }
        for name, (shapes, layout) in SHAPES.items()
    ]


def spread(made, mesh, placements):
    from torch.distributed.tensor import distribute_tensor

    for group in made:
        group["params"] = [
            nn.Parameter(distribute_tensor(p.detach(), mesh, placements)) for p in group["params"]
        ]
    return made


def gradients(optimizer, step):
    """The same for whole and sharded parameters; one wakes up late, one sleeps at times."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for group in optimizer.param_groups:
        for p, name in zip(group["params"], group["param_names"], strict=True):
            generator = torch.Generator().manual_seed(sum(map(ord, name)) + 1000 * step)
            g = torch.randn(p.shape, generator=generator).double().to(p.dtype)
            if isinstance(p, DTensor):
                g = distribute_tensor(g, p.device_mesh, p.placements)
            sleeps = (name == "alike.1" and step < 2) or (name == "others.2" and step == 3)
            p.grad = None if sleeps else g


def mesh_of(shape, where):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard

    kinds = {"s0": Shard(0), "s1": Shard(1), "r": Replicate()}
    names = ("outer", "inner")[: len(shape)]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    return mesh, [kinds[kind] for kind in where.split()]


def whole(p):
    return p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach()


def make(name, settings, shape=None, where=""):
    made = groups()
    if shape is not None:
        spread(made, *mesh_of(shape, where))
    return (Mixed if name == "mixed" else class_of(name))(made, **settings)


def weights(optimizer):
    return [whole(p) for group in optimizer.param_groups for p in group["params"]]


def train(name, settings, shape=None, where="", at_once=None):
    from lit_optim.sharding import exchange

    optimizer = make(name, settings, shape, where)
    before = exchange.ROUND[True]
    exchange.ROUND[True] = at_once or before
    try:
        for step in range(6):
            gradients(optimizer, step)
            optimizer.step()
    finally:
        exchange.ROUND[True] = before
    return weights(optimizer)


def check(results, expected):
    names = [f"{name}.{i}" for name, (shapes, _) in SHAPES.items() for i in range(len(shapes))]
    for result in results:
        for p, q, name in zip(result, expected, names, strict=True):
            torch.testing.assert_close(p, q, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("name", "case"), PLACES, ids=str)
def test_any_placement_trains_what_one_process_trains(name, case):
    size, shape, where = case
    settings = MATRIX[name][2][-1]
    expected = train(name, settings)
    check(processes(size).run(train, name, settings, shape, where), expected)


@pytest.mark.parametrize(("size", "shape", "where"), [(4, (2, 2), "s0 s1"), (2, (2,), "r")])
def test_one_that_is_nobodys(size, shape, where):
    expected = train("mixed", {})
    check(processes(size).run(train, "mixed", {}, shape, where), expected)


@pytest.mark.parametrize("at_once", [1, 60])
def test_rounds_change_nothing(at_once):
    expected = train("normuon", {})
    check(processes(3).run(train, "normuon", {}, (3,), "s0", at_once), expected)


def begin(name, settings, shape=None, where=""):
    """Three updates: the weights, and the state dict with whole tensors."""
    optimizer = make(name, settings, shape, where)
    for step in range(3):
        gradients(optimizer, step)
        optimizer.step()
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state.update({key: whole(x) for key, x in state.items() if torch.is_tensor(x)})
    return weights(optimizer), saved


def go_on(name, settings, values, saved, shape=None, where=""):
    """Three more, from there."""
    made = groups()
    for p, value in zip((p for group in made for p in group["params"]), values, strict=True):
        p.data.copy_(value)
    if shape is not None:
        spread(made, *mesh_of(shape, where))
    optimizer = class_of(name)(made, **settings)
    optimizer.load_state_dict(saved)
    for step in range(3, 6):
        gradients(optimizer, step)
        optimizer.step()
    return weights(optimizer)


@pytest.mark.parametrize("name", METHODS)
def test_states_move_to_other_owners(name):
    settings = MATRIX[name][2][-1]
    expected, alone = begin(name, settings)[1], train(name, settings)
    values, saved = processes(4).run(begin, name, settings, (2, 2), "s0 s1")[2]
    for k, state in expected["state"].items():
        assert state.keys() == saved["state"][k].keys()
        for key, x in state.items():
            if torch.is_tensor(x):
                torch.testing.assert_close(saved["state"][k][key], x, **TOLERANCE)
    check([go_on(name, settings, values, saved)], alone)
    check(processes(2).run(go_on, name, settings, values, saved, (2,), "s1"), alone)


OPTIONS = [
    {"cautious": True},
    {"clip_update": 0.1},
    {"trust_ratio": True, "weight_decay": 0.1},
    {"hyperball": True, "weight_decay": 0.0},
    {"cautious_weight_decay": True, "weight_decay": 0.3, "cautious": True, "clip_update": 0.2},
    {"maximize": True, "weight_decay": 0.1, "decay": "independent"},
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["muon", "soap"])
def test_options_look_at_the_whole_tensor(name, options):
    expected = train(name, options)
    for where in ("s0", "s1"):
        check(processes(2).run(train, name, options, (2,), where), expected)
