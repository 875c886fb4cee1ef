"""What cannot be right is refused in one line before the first step, on all processes alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import lit_optim
from tests.sharding.given_gradients import shard
from tests.sharding.processes import processes


def matrices(count: int = 3) -> list[Tensor]:
    return [torch.ones(4, 6, dtype=torch.float64) for _ in range(count)]


def mesh_of(*ranks: int) -> Any:
    from torch.distributed.device_mesh import DeviceMesh

    return DeviceMesh("cpu", list(ranks))


def plain_gradient() -> list[Any]:
    """The last parameter of three has a gradient that is not spread as it is."""
    mesh = mesh_of(0, 1)
    params = [nn.Parameter(shard(x, mesh, [0])) for x in matrices()]
    for p in params:
        p.grad = torch.ones_like(p)
    params[-1].grad = torch.ones(4, 6, dtype=torch.float64)
    return params


def sharded_gradient() -> list[Any]:
    params = [nn.Parameter(x) for x in matrices()]
    for p in params:
        p.grad = torch.ones_like(p)
    params[-1].grad = shard(torch.ones(4, 6, dtype=torch.float64), mesh_of(0, 1), [0])
    return params


def partial_parameter() -> list[Any]:
    from torch.distributed.tensor import DTensor, Partial

    return [nn.Parameter(DTensor.from_local(x, mesh_of(0, 1), [Partial()])) for x in matrices()]


def elsewhere() -> list[Any]:
    """A parameter of process 0 only, which process 1 has too."""
    mesh = mesh_of(0)
    if dist.get_rank() == 0:
        return [nn.Parameter(x) for x in matrices()]
    return [nn.Parameter(shard(x, mesh, [0])) for x in matrices()]


def sharded() -> list[Any]:
    return [nn.Parameter(shard(x, mesh_of(0, 1), [0])) for x in matrices()]


def flattened(whole: bool) -> list[Any]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).double()
    cpu = torch.device("cpu")
    wrapped = FullyShardedDataParallel(model, device_id=cpu, use_orig_params=not whole)
    wrapped(torch.ones(3, 4, dtype=torch.float64)).sum().backward()
    return list(wrapped.parameters())


def step(make_params: Any, arguments: tuple[Any, ...], name: str, options: dict[str, Any]) -> str:
    """What is said, and that nothing has changed."""
    params = make_params(*arguments)
    before = [getattr(p, "_local_tensor", p).detach().clone() for p in params]
    try:
        if name == "Sam":
            lit_optim.Sam(lit_optim.AdamW(params)).step(lambda: None)
        else:
            getattr(lit_optim, name)(params, **options).step()
    except lit_optim.UsageError as error:
        for p, kept in zip(params, before, strict=True):
            assert torch.equal(getattr(p, "_local_tensor", p), kept)
        return str(error)
    return ""


WHOLE = "flattened by FullyShardedDataParallel (FSDP1)"
REFUSED = {
    "plain gradient": (plain_gradient, (), "AdamW", {}, "its gradient is a plain tensor"),
    "sharded gradient": (sharded_gradient, (), "AdamW", {}, "its gradient is a DTensor"),
    "partial sums": (partial_parameter, (), "Lion", {}, "a DTensor of partial sums"),
    "torch's L-BFGS": (sharded, (), "LBFGS", {}, "LBFGS, which is torch's own, takes no DTensors"),
    "torch's SparseAdam": (
        sharded,
        (),
        "SparseAdam",
        {},
        "SparseAdam, which is torch's own, takes no DTensors",
    ),
    "flat parameter": (flattened, (True,), "Lamb", {}, WHOLE),
    "flat views": (flattened, (False,), "Adafactor", {}, WHOLE),
    "flat matrices": (flattened, (False,), "Muon", {}, WHOLE),
    "flat option": (flattened, (True,), "AdamW", {"cautious": True}, "AdamW with cautious=True"),
    "flat and Sam": (flattened, (True,), "Sam", {}, WHOLE),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line_before_anything_changes(what):
    *given, expected = REFUSED[what]
    for message in processes(2).run(step, *given):
        assert expected in message
        assert "\n" not in message


def test_a_parameter_of_other_processes_is_refused():
    messages = processes(2).run(step, elsewhere, (), "AdamW", {})
    assert messages[0] == ""
    assert "spread over the processes [0], and this is process 1" in messages[1]


def train_flattened(name: str) -> tuple[list[float], list[float]]:
    """The loss after some updates, flattened by FSDP1 and in one process."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    losses: tuple[list[float], list[float]] = ([], [])
    x = torch.ones(3, 4, dtype=torch.float64)
    for found, is_flat in zip(losses, (True, False), strict=True):
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        if is_flat:
            model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
        optimizer = getattr(lit_optim, name)(model.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_elementwise_optimizers_step_what_fsdp1_flattens(name):
    for flat, plain in processes(2).run(train_flattened, name):
        assert flat == pytest.approx(plain, rel=1e-10)
