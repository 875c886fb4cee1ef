"""Optimizers that refuse some keys of param groups."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from torch import nn

from lit_optim.errors import UsageError
from lit_optim.making import make_optimizer
from lit_optim.param_groups import by_rules, layer_decay, no_decay, single
from lit_optim.schedules.library import cosine_warmup
from lit_optim.wrappers import Wrapped
from lit_optim.wrappers.wrapper import none
from tests.lightning.modules import Data, Plain, attach, trainer


class Strict(torch.optim.SGD):
    """Refuses a key that it does not know."""

    def __init__(self, params, lr=0.1, weight_decay=0.5):
        for group in params:
            assert group.keys() <= {"params", "lr", "weight_decay"}, group.keys()
        super().__init__(params, lr=lr, weight_decay=weight_decay)


class Flat(torch.optim.SGD):
    """Takes parameters only."""

    def __init__(self, params, lr=0.1):
        params = list(params)
        if any(not isinstance(p, torch.Tensor) for p in params):
            raise TypeError("params must be tensors")
        super().__init__(params, lr=lr)


class Keyed(torch.optim.SGD):
    """Wants a key of its own in each group."""

    def __init__(self, params, lr=0.1):
        for group in params:
            group["lr"] = lr * group["speed"]  # KeyError
        super().__init__(params, lr=lr)


def net():
    return nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1))


@pytest.mark.parametrize("make", [torch.optim.LBFGS, Flat], ids=["LBFGS", "Flat"])
def test_several_groups_become_one_if_nothing_is_lost(make, caplog):
    module = net()
    with caplog.at_level(logging.INFO, "lit_optim"):
        made = make_optimizer(make, no_decay(module))
    [group] = made.param_groups
    assert set(group["params"]) == set(module.parameters())
    assert caplog.messages == [
        f"{make.__name__} takes one param group: decay, no_decay are one, as with "
        "param_groups=single"
    ]
    caplog.clear()
    make_optimizer(make, single(module))
    assert not caplog.messages


@pytest.mark.parametrize("make", [torch.optim.LBFGS, Flat], ids=["LBFGS", "Flat"])
@pytest.mark.parametrize(
    "groups", [layer_decay, partial(by_rules, rules=[{"ndim": 2, "weight_decay": 0.3}])]
)
def test_groups_that_cannot_become_one_are_refused(make, groups):
    with pytest.raises(UsageError, match=r"takes one param group, .* use param_groups=single"):
        make_optimizer(make, groups(net()))


def test_a_class_that_refuses_what_it_does_not_know():
    module = net()
    groups = layer_decay(module, decay=0.5)
    made = make_optimizer(Strict, groups)
    found = [(g["name"], g["lr"], g["weight_decay"], g["params"]) for g in made.param_groups]
    expected = [
        (g["name"], 0.1 * g["lr_mult"], g.get("weight_decay", 0.5), g["params"]) for g in groups
    ]
    assert found == expected


def test_keys_of_its_own_come_from_rules():
    rules = [{"ndim": 2, "speed": 2.0}, {"name": "*", "speed": 1.0}]
    made = make_optimizer(Keyed, by_rules(net(), rules))
    assert {g["lr"] for g in made.param_groups} == {0.1, 0.2}
    with pytest.raises(UsageError, match=r"Keyed: 'speed' \(if that is about a key of its param"):
        make_optimizer(Keyed, no_decay(net()))


def test_pytorch_optimizers_muon():
    muon = pytest.importorskip("pytorch_optimizer").Muon
    with pytest.raises(UsageError, match="Muon: `use_muon` must be set"):
        make_optimizer(muon, no_decay(net()))
    rules = [{"role": "hidden", "use_muon": True}, {"name": "*", "use_muon": False}]
    made = make_optimizer(muon, by_rules(net(), rules))
    assert sum(len(g["params"]) for g in made.param_groups if g["use_muon"]) == 1


@pytest.mark.parametrize(
    "make", [partial(torch.optim.AdamW, lr=-1.0), Wrapped(partial(torch.optim.SGD, lr=-1.0), none)]
)
def test_other_errors_of_the_constructor_become_one_line(make):
    with pytest.raises(UsageError, match=r"(AdamW|SGD): Invalid learning rate: -1\.0"):
        make_optimizer(make, no_decay(net()))


def test_an_error_in_the_constructor_keeps_its_traceback():
    def broken(groups):
        return groups.nowhere

    with pytest.raises(AttributeError, match="nowhere"):
        make_optimizer(broken, no_decay(net()))


def test_lbfgs_trains(tmp_path):
    module = attach(Plain(), partial(torch.optim.LBFGS, lr=0.1), cosine_warmup())
    run = trainer(tmp_path, max_steps=3)
    run.fit(module, Data())
    assert run.global_step == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["optimizer._target_=pytorch_optimizer.Muon", "allow=[pytorch_optimizer]"],
         "Muon: `use_muon` must be set"),
        (["optimizer._target_=torch.optim.AdamW", "optimizer.lr=-1"],
         "AdamW: Invalid learning rate: -1"),
    ],
)  # fmt: skip
def test_on_the_command_line(refusal, argv, message):
    pytest.importorskip(argv[0].partition("=")[2].split(".")[0])
    assert message in refusal(["optimizer=custom", *argv, "data=digits", "model=mlp"])
