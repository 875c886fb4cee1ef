"""States that are saved on some processes and loaded on others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lit_optim
from tests.sharding.processes import processes

#: int8 codes of the first weight are saved as codes, since a row has 256 numbers; others as values
WIDE = (256, 6)


def build(dtype: torch.dtype, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Linear(*WIDE, bias=bias), nn.Linear(WIDE[1], 3, bias=bias)
    return nn.Sequential(first, nn.Tanh(), last).to(dtype)


def shard(model: nn.Sequential, mesh: Any = None) -> None:
    from torch.distributed.fsdp import fully_shard

    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def make(name: str, model: Any, options: dict[str, Any]) -> torch.optim.Optimizer:
    *wrappers, name = name.split(" of ")
    optimizer = getattr(lit_optim, name)(model, **options)
    for wrapper in reversed(wrappers):
        optimizer = getattr(lit_optim, wrapper)(optimizer)
    return optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        dtype = next(model.parameters()).dtype
        x, y = torch.randn(8, WIDE[0]).to(dtype), torch.randn(8, 3).to(dtype)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def whole(model: nn.Module, optimizer: object) -> list[Tensor]:
    """The weights, after their average if there is one."""
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return [
        (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for p in model.parameters()
    ]


def start(name: str, dtype: torch.dtype, options: dict[str, Any], way: str) -> tuple[Any, Any]:
    from torch.distributed.device_mesh import init_device_mesh

    model = build(dtype, bias="MuonTorch" not in name)
    if way == "hsdp":
        shard(model, init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard")))
    elif way == "fsdp":
        shard(model)
    elif way == "fsdp and tp":
        from torch.distributed.tensor.parallel import (
            ColwiseParallel,
            RowwiseParallel,
            parallelize_module,
        )

        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(model, mesh["tensor"], plan)
        shard(model, mesh["data"])
    return model, make(name, model, options)


def save(
    name: str, dtype: torch.dtype, options: dict[str, Any], folder: str, way: str, flat: bool
) -> list[Tensor]:
    """Train three steps, save, and train two more; returns the weights then."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as of_torch

    model, optimizer = start(name, dtype, options, way)
    train(model, optimizer, range(3))
    how = of_torch.StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, states = of_torch.get_state_dict(model, optimizer, options=how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one process saves without a process group
        dcp.save({"model": weights, "optimizer": states}, checkpoint_id=folder)
    train(model, optimizer, range(3, 5))
    return whole(model, optimizer)


def resume(
    name: str, dtype: torch.dtype, options: dict[str, Any], folder: str, way: str, flat: bool
) -> list[Tensor]:
    """Load what was saved into a fresh optimizer, and train two more steps."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as of_torch

    model, optimizer = start(name, dtype, options, way)
    how = of_torch.StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, states = of_torch.get_state_dict(model, optimizer, options=how)
    found = {"model": weights, "optimizer": states}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(found, checkpoint_id=folder)
    of_torch.set_state_dict(
        model,
        optimizer,
        model_state_dict=found["model"],
        optim_state_dict=found["optimizer"],
        options=how,
    )
    train(model, optimizer, range(3, 5))
    return whole(model, optimizer)


def run(function: Any, world: int | str, *arguments: Any) -> list[Tensor]:
    if world == 1:
        return function(*arguments[:-1], "alone", arguments[-1])
    way, size = ("fsdp", world) if isinstance(world, int) else (world, 4)
    results = processes(size).run(function, *arguments[:-1], way, arguments[-1])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
    return results[0]


PRECISIONS = {
    "float64": (torch.float64, {}),
    "bfloat16": (torch.float32, {"state_dtype": "bfloat16"}),
    "int8": (torch.float32, {"state_dtype": "int8"}),
    "split": (torch.bfloat16, {"state_dtype": "int8", "master": "split"}),
}


def check(folder: Path, name: str, precision: str, before: Any, after: Any, flat: bool) -> None:
    dtype, options = PRECISIONS[precision]
    expected = run(save, before, name, dtype, options, str(folder), flat)
    found = run(resume, after, name, dtype, options, str(folder), flat)
    for p, q in zip(found, expected, strict=True):
        if before == after:
            assert torch.equal(p, q)
        elif dtype == torch.float64:
            torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
        else:
            torch.testing.assert_close(p, q, rtol=0.02, atol=2e-3)
