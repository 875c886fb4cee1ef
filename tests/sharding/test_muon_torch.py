"""torch's own Muon of sharded matrices trains what one process trains, in bfloat16 to the bit."""

from __future__ import annotations

import pytest
import torch

from tests.sharding.given_gradients import train
from tests.sharding.processes import processes

SHAPES = [(5, 7), (1, 9), (4, 6), (12, 3), (8, 8)]
MESHES = {
    "rows": ((2,), [0]),
    "columns": ((2,), [1]),
    "hybrid": ((2, 2), [None, 0]),
    "both": ((2, 2), [0, 1]),
}


@pytest.mark.parametrize("where", MESHES)
@pytest.mark.parametrize("arguments", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}])
def test_sharded_as_one_process(where, arguments):
    mesh, placements = MESHES[where]
    size = torch.Size(mesh).numel()
    expected = processes(size).run(train, "MuonTorch", arguments, SHAPES)[0]
    for result in processes(size).run(train, "MuonTorch", arguments, SHAPES, mesh, placements):
        for p, q in zip(result, expected, strict=True):
            assert torch.equal(p, q)
