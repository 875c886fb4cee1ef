"""Wrappers around optimizers of sharded parameters train what one process trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_optim
from tests.sharding.given_gradients import whole
from tests.sharding.processes import processes

WRAPPERS: dict[str, dict[str, Any]] = {
    "Ema": {"decay": 0.6},
    "Lookahead": {"k": 2},
    "Sam": {"rho": 0.3},
    "adaptive Sam": {"rho": 0.3, "adaptive": True},
}


def build() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(3, 1)).double()
    model[2].bias.requires_grad_(False)
    return model


def train(name: str, base: str, layout: str) -> tuple[list[Tensor], list[Tensor]]:
    """The weights after some updates, and what is evaluated."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = build()
    if layout in ("fsdp2", "hsdp"):
        shape = (2, 2) if layout == "hsdp" else (torch.distributed.get_world_size(),)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards")[-len(shape) :])
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    params = [p for p in model.parameters() if p.requires_grad]
    make = getattr(lit_optim, base)
    inner = make(params, lr=0.05)
    if layout == "zero":
        inner = ZeroRedundancyOptimizer(params, optimizer_class=make, lr=0.05)
    kind = name.removeprefix("adaptive ")
    optimizer = getattr(lit_optim, kind)(inner, **WRAPPERS[name])
    x, y = torch.randn(8, 5).double(), torch.randn(8, 1).double()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    evaluated = []
    for _ in range(5):
        optimizer.step(closure)
        if kind == "Ema":
            optimizer.eval()
            with torch.no_grad():
                evaluated.append(model(x).detach())
            if hasattr(model, "reshard"):  # the root keeps whole weights after a forward pass
                model.reshard()
            optimizer.train()
    return [whole(p) for p in model.parameters()], evaluated


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(("layout", "size"), [("fsdp2", 2), ("hsdp", 4), ("zero", 2)])
def test_wrapped_as_in_one_process(name, layout, size):
    torch.manual_seed(0)
    weights, evaluated = processes(size).run(train, name, "AdamW", "plain")[0]
    for found, seen in processes(size).run(train, name, "AdamW", layout):
        for x, y in zip([*found, *seen], [*weights, *evaluated], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


def saved_states() -> int:
    """The number of states that torch saves of a Sam that has not stepped."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    model = build()
    fully_shard(model)
    params = [p for p in model.parameters() if p.requires_grad]
    return len(get_optimizer_state_dict(model, lit_optim.Sam(lit_optim.AdamW(params)))["state"])


def test_torch_saves_a_sam_that_has_not_stepped():
    assert processes(2).run(saved_states) == [5, 5]
