"""States that are saved on some processes go on exactly, on as many or on others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_optim
from tests.sharding.processes import Failed, processes
from tests.sharding.saving import (
    PRECISIONS,
    build,
    check,
    make,
    resume,
    run,
    save,
    shard,
    start,
    train,
    whole,
)


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


@pytest.mark.sampled(6)
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
