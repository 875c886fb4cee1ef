"""States that are saved on some processes go on exactly, on as many or on others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_optim
from tests.sharding.processes import Failed, processes

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


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_states_go_on_on_as_many_processes_to_the_bit(tmp_path, precision, flat):
    check(tmp_path, "AdamW", precision, 2, 2, flat)


@pytest.mark.parametrize(
    ("before", "after"), [(2, 3), (3, 1), (1, 4), (4, "hsdp"), ("hsdp", 3)], ids=str
)
@pytest.mark.parametrize("precision", ["float64", "int8"])
def test_states_go_on_on_other_processes(tmp_path, precision, before, after):
    check(tmp_path, "AdamW", precision, before, after, before == 2)


@pytest.mark.parametrize(
    ("before", "after"), [("fsdp and tp", "fsdp and tp"), ("fsdp and tp", 3), (2, "fsdp and tp")]
)
@pytest.mark.parametrize(
    ("name", "precision"),
    [("AdamW", "float64"), ("AdamW", "int8"), ("Muon", "float64"), ("Shampoo", "float64")],
)
def test_states_go_on_under_tensor_parallelism(tmp_path, name, precision, before, after):
    check(tmp_path, name, precision, before, after, after == 3)


def save_early(name: str, folder: str, flat: bool) -> list[Tensor]:
    """Saved before the first update, and with groups and a schedule; then trained."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as of_torch

    from lit_optim.schedules.scheduling import schedule

    how = of_torch.StateDictOptions(flatten_optimizer_state_dict=flat)
    results = []
    for is_saved in (False, True):
        model = build(torch.float64)
        shard(model)
        groups = lit_optim.param_groups.no_decay(model)
        optimizer = make(name, groups, {})
        scheduler = schedule(optimizer, lit_optim.schedules.cosine_warmup(2), steps=5)
        if is_saved:
            before = whole(model, object())
            states = of_torch.get_optimizer_state_dict(model, optimizer, options=how)
            dcp.save(states, checkpoint_id=folder)
            dcp.load(states, checkpoint_id=folder)
            of_torch.set_optimizer_state_dict(model, optimizer, states, options=how)
            assert all(map(torch.equal, before, whole(model, object())))
        for step in range(5):
            train(model, optimizer, range(step, step + 1))
            scheduler.step()
        results += whole(model, object())
    return results


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("name", ["AdamW", "Rprop", "Muon", "Ema of SOAP"])
def test_a_checkpoint_of_a_fresh_optimizer_changes_nothing(tmp_path, name, flat):
    results = processes(2).run(save_early, name, str(tmp_path), flat)[0]
    half = len(results) // 2
    assert half == 4
    assert all(map(torch.equal, results[:half], results[half:]))


def save_late(folder: str) -> bool:
    """One layer gets its first gradient after the save."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as of_torch

    results = []
    for is_saved in (False, True):
        model, optimizer = start("AdamW", torch.float64, {}, "fsdp")
        for step in range(4):
            train(model, LateHead(model, optimizer, step), range(step, step + 1))
            if is_saved and step == 1:
                weights, states = of_torch.get_state_dict(model, optimizer)
                dcp.save({"model": weights, "optimizer": states}, checkpoint_id=folder)
                model, optimizer = start("AdamW", torch.float64, {}, "fsdp")
                weights, states = of_torch.get_state_dict(model, optimizer)
                found = {"model": weights, "optimizer": states}
                dcp.load(found, checkpoint_id=folder)
                of_torch.set_state_dict(
                    model, optimizer, model_state_dict=weights, optim_state_dict=states
                )
        results.append(whole(model, optimizer))
    return all(map(torch.equal, *results))


class LateHead:
    """An optimizer that sees no gradient of the head in the first two steps."""

    def __init__(self, model: nn.Module, optimizer: Any, step: int) -> None:
        self.head, self.optimizer, self.step_number = model[2], optimizer, step

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self) -> None:
        if self.step_number < 2:
            self.head.zero_grad()
        self.optimizer.step()


def test_a_parameter_without_a_gradient_so_far_is_saved_too(tmp_path):
    assert processes(2).run(save_late, str(tmp_path)) == [True, True]


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("name", ["Ema of AdamW", "Lookahead of Lion", "Ema of Lookahead of Muon"])
def test_states_of_wrappers_go_on(tmp_path, name, flat):
    check(tmp_path, name, "float64", 2, 3 if flat else 2, flat)
    if name == "Ema of AdamW":
        check(tmp_path / "split", name, "split", 2, 2, flat)


def die_while_saving(folder: str) -> None:
    """Save, but the second process is killed before it has written its part."""
    import os

    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    model, optimizer = start("AdamW", torch.float64, {}, "fsdp")
    train(model, optimizer, range(1))

    class Writer(dcp.FileSystemWriter):
        def write_data(self, *arguments: Any, **more: Any) -> Any:
            if dist.get_rank() == 1:
                os._exit(9)
            return super().write_data(*arguments, **more)

    dcp.save(optimizer.state_dict(), storage_writer=Writer(folder))


@pytest.mark.slow
def test_a_killed_save_loses_nothing_that_was_saved(tmp_path):
    first, second = tmp_path / "step_3", tmp_path / "step_5"
    expected = run(save, 2, "AdamW", torch.float64, {}, str(first), False)
    with pytest.raises(Failed):
        processes(2).run(die_while_saving, str(second))
    found = run(resume, 2, "AdamW", torch.float64, {}, str(first), False)
    assert all(map(torch.equal, found, expected))
    with pytest.raises(Failed, match=r"\.metadata"):
        run(resume, 2, "AdamW", torch.float64, {}, str(second), False)
