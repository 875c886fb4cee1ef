"""Elementwise optimizers of sharded parameters train what one process trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lit_optim
from tests.sharding.processes import processes


def build(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def train(name: str, sharded: bool) -> list[torch.Tensor]:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = build()
    if sharded:
        for layer in (model[0], model[2]):
            fully_shard(layer)
        fully_shard(model)
    optimizer = getattr(lit_optim, name)(model)
    x, y = torch.randn(8, 5).double(), torch.randn(8, 3).double()
    for _ in range(4):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    params = model.parameters()
    return [p.full_tensor().detach() if isinstance(p, DTensor) else p.detach() for p in params]


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "Adagrad", "Adafactor", "Lamb", "Lars"])
def test_fsdp2_trains_what_one_process_trains(name):
    torch.manual_seed(0)
    expected = processes(2).run(train, name, False)[0]
    for result in processes(2).run(train, name, True):
        for p, q in zip(result, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
