"""The table of the optimizer of each parameter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lit_optim import SGD, SOAP, Adafactor, AdamW, Mars, Muon, ScheduleFreeAdamW
from lit_optim.callbacks.parameter_table import (
    HEADER,
    ParameterTable,
    count_parameters,
    format_bytes,
    parameter_rows,
    state_bytes,
)
from lit_optim.param_groups import by_role, by_rules, no_decay, single
from lit_optim.training.requirements import requirements_of
from tests.lightning.modules import Data, Plain, attach, trainer


def net():
    blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(12))
    return nn.ModuleDict({"token": nn.Embedding(9, 6), "blocks": blocks, "head": nn.Linear(6, 9)})


def test_a_row_for_each_pattern_within_a_group():
    module = net()
    optimizer = Muon(by_role(no_decay(module), module), lr=0.02, weight_decay=0.1)
    assert parameter_rows(optimizer, module) == [
        ["token.weight", "embedding", "AdamW", "0.002", "0.01", "54", "432 B"],
        ["blocks.*.weight", "hidden", "Muon", "0.02", "0.1", "432", "1.73 kB"],
        ["head.weight", "head", "AdamW", "0.002", "0.01", "54", "432 B"],
        ["blocks.*.bias", "bias", "AdamW", "0.002", "0", "72", "576 B"],
        ["head.bias", "bias", "AdamW", "0.002", "0", "9", "72 B"],
    ]


@pytest.mark.parametrize("make", [SOAP, Mars])  # Mars keeps less for what is no matrix
def test_the_predicted_size_of_the_state_is_exact(make):
    module = net()
    groups = no_decay(module)
    optimizer = make(by_role(groups, module) if make is SOAP else groups)
    predicted = sum(
        float(row[-1].split()[0]) * {"B": 1, "kB": 1e3}[row[-1].split()[1]]
        for row in parameter_rows(optimizer, module)
    )
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    assert abs(predicted - sum(v.nbytes for v in kept)) < 0.01 * predicted


def test_it_is_printed_and_logged_if_there_are_roles(tmp_path, capsys):
    for make, predicted in ((partial(Muon, lr=0.02), True), (AdamW, False)):
        module = attach(Plain(), make)
        run = trainer(tmp_path, max_steps=2, callbacks=[ParameterTable()])
        run.fit(module, Data())
        printed = capsys.readouterr().out
        assert ("weight decay" in printed) == predicted
    logger = TensorBoardLogger(tmp_path, name="", version="logged")
    module = attach(Plain(), partial(Muon, lr=0.02))
    trainer(tmp_path, max_steps=2, callbacks=[ParameterTable()], logger=logger).fit(module, Data())
    logger.finalize("success")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (event,) = events.Tensors("routing/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "| net.0.weight | hidden | Muon | 0.02 |" in text


LAYERS = [
    lambda: nn.Linear(4, 4),
    lambda: nn.Linear(4, 4, bias=False),
    lambda: nn.LayerNorm(4),
    lambda: nn.Embedding(6, 4),
    lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)),
]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_counted_is_what_a_step_trains_and_keeps(data):
    """Random models, frozen parts, shared weights; the truth is what a real update leaves."""
    kinds = data.draw(st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=5))
    ends = [nn.Linear(4, 4) for _ in "abc"]
    module = nn.Sequential(*ends[:2], *(LAYERS[k]() for k in kinds), ends[2])
    if data.draw(st.booleans()):
        module[-1].weight = module[0].weight
    params = list(module.parameters())
    for p in params[4:]:  # so that something is hidden
        p.requires_grad_(data.draw(st.booleans()))
    make = data.draw(st.sampled_from([AdamW, SGD, Muon, Mars, Adafactor, ScheduleFreeAdamW]))
    groups = data.draw(st.sampled_from([no_decay, single]))(module)
    if data.draw(st.booleans()):  # as where a callback unfreezes the rest later
        kept = [[p for p in group["params"] if p.requires_grad] for group in groups]
        groups = [{"params": found} for found in kept if found]
        groups = [g | {"param_names": [f"{k}.{i}" for i in range(len(g["params"]))]}
                  for k, g in enumerate(groups)]  # fmt: skip
    if "roles" in requirements_of(make):
        groups = by_role(groups, module)
    optimizer = make(groups, lr=0.01)
    predicted = sum(
        state_bytes(optimizer, g, p) for g in optimizer.param_groups for p in g["params"]
    )
    counted, rows = count_parameters(optimizer, module), parameter_rows(optimizer, module)
    sum(p.square().sum() for p in params).backward()
    optimizer.step()
    trained = sum(p.numel() for p in params if p.grad is not None)
    assert counted == (trained, sum(p.numel() for p in params) - trained)
    kept = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    assert predicted == sum(v.nbytes for v in kept)
    counts = [int(row[5].replace(",", "")) for row in rows]
    assert sum(counts) == sum(counted)
    frozen = [row for row in rows if row[2] == "frozen"]
    assert sum(int(row[5].replace(",", "")) for row in frozen) == counted[1]
    assert all(row[3] == row[4] == row[6] == "-" for row in frozen)
    assert all(len(row) == len(HEADER) for row in rows)


def test_what_rules_freeze_has_rows_of_its_own():
    module = net()
    groups = by_rules(module, [{"name": "blocks.0.*", "frozen": True}])
    optimizer = Muon(by_role(groups, module), lr=0.02)
    rows = {row[0]: row for row in parameter_rows(optimizer, module)}
    assert rows["blocks.0.weight"] == [
        "blocks.0.weight", "hidden", "frozen", "-", "-", "36", "-"
    ]  # fmt: skip
    assert rows["blocks.*.weight"][5] == f"{11 * 36}"
    assert rows["blocks.*.weight"][6] == format_bytes(11 * 36 * 4)


def test_parameters_in_no_group_are_listed():
    module = net()
    optimizer = AdamW(module.head.parameters(), lr=0.1)
    module.token.requires_grad_(False)
    rows = {row[0]: row[2] for row in parameter_rows(optimizer, module)}
    assert rows == {
        "head.weight": "AdamW",
        "head.bias": "AdamW",
        "token.weight": "frozen",
        "blocks.*.weight": "in no group",
        "blocks.*.bias": "in no group",
    }
