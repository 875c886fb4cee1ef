"""Adafactor of sharded parameters trains what one process trains."""

from __future__ import annotations

import pytest
import torch

from tests.sharding.given_gradients import SHAPES, train
from tests.sharding.processes import processes

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


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("where", MESHES)
def test_sharded_as_one_process(name, where, executor):
    mesh, placements = MESHES[where]
    expected = train(name, ARGUMENTS[name] | {"executor": "torch"}, SHAPES)
    arguments = ARGUMENTS[name] | {"executor": executor}
    results = processes(size(mesh)).run(train, name, arguments, SHAPES, mesh, placements)
    for result in results:
        for p, q in zip(result, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("executor", ["native", "torch"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_other_precisions_and_many_parts(dtype, rtol, executor):
    shapes, name = [(520, 260), (9,), (130, 3, 4, 5)], "AdafactorHF"
    arguments = ARGUMENTS[name] | {"executor": "torch"}
    expected = train(name, arguments, shapes, dtype=dtype)
    arguments |= {"executor": executor}
    for result in processes(2).run(train, name, arguments, shapes, (2,), [0], dtype):
        for p, q in zip(result, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_squares_that_overflow_do_not_spread(executor):
    """Of float32 gradients whose squares overflow, sharded by rows, as in one process."""
    arguments = {"executor": "torch"}
    expected = train("Adafactor", arguments, SHAPES, dtype=torch.float32, scale=1e22)
    more = (2,), [0], torch.float32, 4, None, 1e22
    for result in processes(2).run(train, "Adafactor", {"executor": executor}, SHAPES, *more):
        for p, q in zip(result, expected, strict=True):
            assert p.isfinite().all()
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
