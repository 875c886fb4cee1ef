"""Matrices of sharded parameters are updated by their owners as one process updates them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.optimizers.cases_matrix import MATRIX
from tests.optimizers.running import class_of
from tests.sharding.processes import processes

METHODS = sorted(MATRIX)
TOLERANCE = {"rtol": 0, "atol": 1e-10}
#: Name: the shape and the layout of a group of one parameter.
SHAPES = {
    "a": ((6, 5), {}),
    "b": ((5, 7), {}),
    "same": ((6, 5), {}),
    "split": ((12, 5), {"split": 3}),
    "turned": ((4, 9), {"split": 3, "transposed": True}),
    "conv": ((4, 2, 3, 3), {}),
    "tall": ((3, 8), {}),
}
#: The shape of the mesh, and the placements: s0 and s1 are shards of a dimension, r are copies.
MESHES = {
    2: [((2,), "s0"), ((2,), "s1"), ((2,), "r")],
    3: [((3,), "s0")],
    4: [((4,), "s0"), ((2, 2), "r s0"), ((2, 2), "s0 s1"), ((2, 2), "s0 s0"), ((2, 2), "s1 r")],
}
CASES = [(size, shape, where) for size, cases in MESHES.items() for shape, where in cases]


def groups(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "params": [nn.Parameter(torch.randn(shape, generator=generator).double())],
            "param_names": [name],
            "name": name,
            "role": "hidden",
            **layout,
        }
        for name, (shape, layout) in SHAPES.items()
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

    for k, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            generator = torch.Generator().manual_seed(1000 * k + step)
            g = torch.randn(p.shape, generator=generator).double().to(p.dtype)
            if isinstance(p, DTensor):
                g = distribute_tensor(g, p.device_mesh, p.placements)
            late = (k == 1 and step < 2) or (k == 2 and step == 3)
            p.grad = None if late else g


def mesh_of(shape, where):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard

    kinds = {"s0": Shard(0), "s1": Shard(1), "r": Replicate()}
    names = ("outer", "inner")[: len(shape)]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    return mesh, [kinds[kind] for kind in where.split()]


def whole(p):
    return p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach()


def train(name, settings, shape=None, where="", steps=6, dtype=torch.float64):
    made = groups()
    for group in made:
        group["params"] = [nn.Parameter(p.detach().to(dtype)) for p in group["params"]]
    if shape is not None:
        spread(made, *mesh_of(shape, where))
    optimizer = class_of(name)(made, **settings)
    for step in range(steps):
        gradients(optimizer, step)
        optimizer.step()
    return [whole(p) for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_any_placement_trains_what_one_process_trains(name, case):
    size, shape, where = case
    settings = MATRIX[name][2][-1]
    expected = train(name, settings)
    for result in processes(size).run(train, name, settings, shape, where):
        for p, q, label in zip(result, expected, SHAPES, strict=True):
            torch.testing.assert_close(p, q, **TOLERANCE, msg=lambda m, s=label: f"{s}: {m}")


OPTIONS = [
    {"cautious": True},
    {"clip_update": 0.1},
    {"trust_ratio": True, "weight_decay": 0.1},
    {"hyperball": True, "weight_decay": 0.0},
    {"cautious_weight_decay": True, "weight_decay": 0.3, "cautious": True, "clip_update": 0.2},
    {"maximize": True, "weight_decay": 0.1, "decay": "independent"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["muon", "soap"])
def test_options_look_at_the_whole_tensor(name, options):
    expected = train(name, options)
    for shape, where in (((2,), "s0"), ((2,), "s1")):
        for result in processes(2).run(train, name, options, shape, where):
            for p, q in zip(result, expected, strict=True):
                torch.testing.assert_close(p, q, **TOLERANCE)
