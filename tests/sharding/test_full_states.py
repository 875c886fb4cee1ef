"""States that are gathered in one process, and go on in many or in one, and the reverse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_optim.sharding import gather_wholes
from tests.sharding.processes import processes
from tests.sharding.saving import PRECISIONS, build, make, shard, start, train, whole


def through_rank_0(name: str, precision: str) -> tuple[list[Tensor], list[Tensor]]:
    """As torch does it: rank 0 gets everything, on the CPU, and gives everybody its part."""
    from torch.distributed.checkpoint import state_dict as of_torch

    dtype, options = PRECISIONS[precision]
    model, optimizer = start(name, dtype, options, "fsdp")
    train(model, optimizer, range(3))
    how = of_torch.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, states = of_torch.get_state_dict(model, optimizer, options=how)
    kept = copy.deepcopy((weights, states))
    train(model, optimizer, range(3, 5))
    other, fresh = start(name, dtype, options, "fsdp")
    how = of_torch.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    of_torch.set_model_state_dict(other, kept[0], options=how)
    of_torch.set_optimizer_state_dict(other, fresh, kept[1], options=how)
    train(other, fresh, range(3, 5))
    return whole(model, optimizer), whole(other, fresh)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("AdamW", "split"),
        ("AdamW", "int8"),
        ("Muon", "float64"),
        ("SOAP", "float64"),
        ("Adafactor", "float64"),
        ("Ema of NorMuon", "float64"),
    ],
)
def test_a_full_state_dict_goes_on_to_the_bit(name, precision):
    for expected, found in processes(2).run(through_rank_0, name, precision):
        assert all(map(torch.equal, expected, found))


def save_whole(name: str, precision: str) -> tuple[Any, Any, list[Tensor]]:
    """As the Trainer does it: the optimizer's own state dict, each tensor whole in rank 0."""
    dtype, options = PRECISIONS[precision]
    model, optimizer = start(name, dtype, options, "fsdp")
    train(model, optimizer, range(3))
    kept = gather_wholes(copy.deepcopy((model.state_dict(), optimizer.state_dict())))
    train(model, optimizer, range(3, 5))
    return *kept, whole(model, optimizer)


def load_whole(name: str, precision: str, way: str, weights: Any, states: Any) -> list[Tensor]:
    dtype, options = PRECISIONS[precision]
    model = build(dtype)
    model.load_state_dict(weights)
    if way == "fsdp":
        shard(model)
    optimizer = make(name, model, options)
    optimizer.load_state_dict(states)
    train(model, optimizer, range(3, 5))
    return whole(model, optimizer)


WHOLE = ["AdamW", "Muon", "Shampoo", "AdafactorHF", "Ema of Lookahead of SOAP"]


@pytest.mark.parametrize(
    ("name", "precision"),
    [*[(name, "float64") for name in WHOLE], ("AdamW", "split"), ("Lion", "int8")],
)
def test_whole_states_go_on_in_one_process_and_in_many(name, precision):
    weights, states, expected = processes(2).run(save_whole, name, precision)[0]
    found = processes(2).run(load_whole, name, precision, "fsdp", weights, states)
    assert all(map(torch.equal, expected, found[0]))
    alone = load_whole(name, precision, "alone", weights, states)
    most = 1e-10 if precision == "float64" else 2e-3
    for p, q in zip(alone, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=most, atol=most)
