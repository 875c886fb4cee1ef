"""Adafactor of sharded parameters trains what one process trains."""

from __future__ import annotations

import pytest
import torch

from tests.sharding.given_gradients import train
from tests.sharding.processes import processes

#: Vectors, matrices, convolutions; lengths that the processes do not divide, or that are too short.
SHAPES = [(7,), (1,), (5, 7), (1, 9), (4, 6), (4, 3, 3, 2)]
MESHES = {
    "rows": ((2,), [0]),
    "columns": ((2,), [1]),
    "copies": ((2,), [None]),
    "hybrid": ((2, 2), [None, 0]),
    "both": ((2, 2), [0, 1]),
    "rows twice": ((2, 2), [0, 0]),
    "batch and columns": ((2, 2), [0, 3]),
}
ARGUMENTS = {
    "Adafactor": {"weight_decay": 0.1, "d": 1.5, "maximize": True},
    "AdafactorHF": {
        "weight_decay": 0.1, "beta1": 0.8, "relative_step": False, "lr": 0.02,
        "clip_threshold": 0.5,
    },
}  # fmt: skip


def size(mesh: tuple[int, ...]) -> int:
    return torch.Size(mesh).numel()


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("where", MESHES)
def test_sharded_as_one_process(name, where):
    mesh, placements = MESHES[where]
    expected = train(name, ARGUMENTS[name] | {"executor": "torch"}, SHAPES)
    results = processes(size(mesh)).run(train, name, ARGUMENTS[name], SHAPES, mesh, placements)
    for result in results:
        for p, q in zip(result, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
