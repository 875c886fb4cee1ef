"""The table of who takes which parameter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lit_optim import SOAP, AdamW, Mars, Muon
from lit_optim.lightning.routing import Routing, routing
from lit_optim.param_groups import by_role, no_decay
from tests.lightning.modules import Data, Plain
from tests.lightning.test_configure import attach, trainer


def net():
    blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(12))
    return nn.ModuleDict({"token": nn.Embedding(9, 6), "blocks": blocks, "head": nn.Linear(6, 9)})


def test_a_row_for_each_pattern_within_a_group():
    module = net()
    optimizer = Muon(by_role(no_decay(module), module), lr=0.02, weight_decay=0.1)
    assert routing(optimizer, module) == [
        ["token.weight", "embedding", "AdamW", "0.002", "0.01", "54", "432 B"],
        ["blocks.*.weight", "hidden", "Muon", "0.02", "0.1", "432", "1.73 kB"],
        ["head.weight", "head", "AdamW", "0.002", "0.01", "54", "432 B"],
        ["blocks.*.bias", "bias", "AdamW", "0.002", "0", "72", "576 B"],
        ["head.bias", "bias", "AdamW", "0.002", "0", "9", "72 B"],
    ]


@pytest.mark.parametrize("make", [SOAP, Mars])  # Mars keeps less for what is no matrix
def test_the_state_is_as_large_as_told(make):
    module = net()
    groups = no_decay(module)
    optimizer = make(by_role(groups, module) if make is SOAP else groups)
    told = sum(
        float(row[-1].split()[0]) * {"B": 1, "kB": 1e3}[row[-1].split()[1]]
        for row in routing(optimizer, module)
    )
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    assert abs(told - sum(v.nbytes for v in kept)) < 0.01 * told


def test_it_is_printed_and_logged_where_roles_divide(tmp_path, capsys):
    for make, told in ((partial(Muon, lr=0.02), True), (AdamW, False)):
        module = attach(Plain(), make)
        run = trainer(tmp_path, max_steps=2, callbacks=[Routing()])
        run.fit(module, Data())
        printed = capsys.readouterr().out
        assert ("weight decay" in printed) == told
    logger = TensorBoardLogger(tmp_path, name="", version="logged")
    module = attach(Plain(), partial(Muon, lr=0.02))
    trainer(tmp_path, max_steps=2, callbacks=[Routing()], logger=logger).fit(module, Data())
    logger.finalize("success")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (event,) = events.Tensors("routing/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "| net.0.weight | hidden | Muon | 0.02 |" in text
