"""What torch's optimizers take and offer, every optimizer takes and offers too."""

from __future__ import annotations

import copy
import inspect
import logging

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lit_optim.errors import UsageError
from lit_optim.optimizers.base import declared
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.schedules.scheduling import schedule
from tests.optimizers.running import NAMES, class_of, defaults_of

#: Without a closure they do nothing.
WITHOUT_CLOSURE = [name for name in NAMES if name != "lbfgs"]


def network(name):
    """In float64; only matrices for an optimizer that takes no others."""
    torch.manual_seed(0)
    bias = name != "muon_torch"
    layers = [nn.Linear(4, 5, bias=bias), nn.Tanh(), nn.Linear(5, 5, bias=bias)]
    return nn.Sequential(*layers, nn.Linear(5, 3, bias=bias)).double()


def make(name, net, **settings):
    if name == "adafactor_hf" and "lr" in settings:
        settings["relative_step"] = False
    return class_of(name)(net, **settings)


def fit(net, optimizer, first, last, after=lambda: None):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 4, dtype=torch.float64, generator=generator)

        def closure(x=x):
            optimizer.zero_grad()
            loss = (net(x) - x[:, :3]).square().mean()
            loss.backward()
            return loss

        closure()
        optimizer.step(closure if "LBFGS" in type(optimizer).__name__ else None)
        after()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


SEQUENCES = {
    "list": list,
    "omegaconf": lambda values: OmegaConf.create(list(values)),
    "numpy": lambda values: np.array(values, dtype=float),
    "tensor": lambda values: torch.tensor(values, dtype=torch.float64),
    "tensors": lambda values: [torch.tensor(x, dtype=torch.float64) for x in values],
}


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("name", NAMES)
def test_several_numbers_are_taken_as_any_sequence(name, kind):
    """By the constructor, in a group, and in a group that is added."""
    several = {
        key: value
        for key, value in defaults_of(class_of(name)).items()
        if isinstance(value, tuple) and None not in value
    }
    for key, value in several.items():
        given = SEQUENCES[kind](value)
        groups = [{"params": [nn.Parameter(torch.eye(2))], "role": "hidden"} for _ in range(3)]
        optimizers = [class_of(name)(groups[:1], **{key: given})]
        optimizers += [class_of(name)([groups[1] | {key: given}])]
        optimizers += [class_of(name)(groups[:1])]
        optimizers[-1].add_param_group(groups[2] | {key: given})
        for optimizer in optimizers:
            assert tuple(optimizer.param_groups[-1][key]) == value
            assert {type(x) for x in optimizer.param_groups[-1][key]} == {float}


@pytest.mark.parametrize("scheduler", ["torch's", "ours", "by hand"])
@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_lr_stays_that_tensor_and_may_be_filled(name, scheduler):
    found = []
    for lr in (torch.tensor(0.25, dtype=torch.float64), 0.25):
        net = network(name)
        optimizer = make(name, net, lr=lr)
        groups = optimizer.param_groups
        if isinstance(lr, torch.Tensor):
            assert any(group["lr"] is lr for group in groups)
        if scheduler == "torch's":
            after = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5).step
        elif scheduler == "ours":
            after = schedule(optimizer, "linear", steps=5).step
        else:

            def after(groups=groups):
                for value in {id(group["lr"]): group["lr"] for group in groups}.values():
                    if isinstance(value, torch.Tensor):
                        value.mul_(0.5)
                for group in groups:
                    if not isinstance(group["lr"], torch.Tensor):
                        group["lr"] *= 0.5

        found.append(fit(net, optimizer, 0, 4, after))
        if isinstance(lr, torch.Tensor):
            assert float(lr) < 0.25
            assert all(isinstance(group["lr"], torch.Tensor) for group in groups)
            fresh = make(name, network(name), lr=torch.tensor(0.5, dtype=torch.float64))
            fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            assert [float(g["lr"]) for g in fresh.param_groups] == [float(g["lr"]) for g in groups]
    assert torch.equal(*found)


@pytest.mark.parametrize("name", NAMES)
def test_how_torch_would_compute_is_ignored_with_one_line(name, caplog):
    declared._log_ignored.cache_clear()
    off = {"foreach": None, "fused": False, "capturable": False, "differentiable": False}
    found, kind = [], class_of(name)
    with caplog.at_level(logging.WARNING, "lit_optim"):
        for settings in ({}, off, {"fused": True}, {"fused": True}):
            net = network(name)
            optimizer = make(name, net, **settings)
            found.append(fit(net, optimizer, 0, 3))
            assert not {*off} & {key for group in optimizer.param_groups for key in group}
    assert all(torch.equal(found[0], other) for other in found)
    lines = [line for line in caplog.messages if "has no effect" in line]
    assert len(lines) == 1
    assert f"{kind.__name__}: fused=True" in lines[0]
    group = {"params": [nn.Parameter(torch.eye(2))], "role": "hidden", "foreach": True}
    optimizer = kind([group | off])
    assert not {*off} & optimizer.param_groups[0].keys()
    with pytest.raises(UsageError, match="cannot differentiate through a step"):
        kind([group | {"differentiable": True}])
    with pytest.raises(UsageError, match="cannot differentiate through a step"):
        kind(network(name), differentiable=True)
    assert not {*off} & inspect.signature(kind).parameters.keys()
    if name != "lbfgs":  # it has one group only
        more = {"params": [nn.Parameter(torch.ones(2, 2))], "role": "hidden", "fused": True}
        optimizer.add_param_group(more)
        assert "fused" not in optimizer.param_groups[-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_key_for_somebody_else_is_kept(name):
    """In a group that is given, in one that is added, and through a state dict."""
    params = [nn.Parameter(torch.eye(2) + k) for k in range(2)]
    optimizer = class_of(name)([{"params": params[:1], "role": "hidden", "lr_scale": 0.5}])
    if name != "lbfgs":
        more = {"params": params[1:], "role": "hidden", "lr_scale": [1, 2], "layer": "x"}
        optimizer.add_param_group(more)
        assert optimizer.param_groups[1]["lr_scale"] == [1, 2]
    other = copy.deepcopy(optimizer)
    for group in other.param_groups:
        group.pop("lr_scale")
    other.load_state_dict(optimizer.state_dict())
    kept = [[group.get(key) for key in ("lr_scale", "layer")] for group in optimizer.param_groups]
    assert kept == [[g.get(key) for key in ("lr_scale", "layer")] for g in other.param_groups]
    assert kept[0][0] == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_hooks_of_a_step_are_called_once(name):
    net, calls = network(name), []
    optimizer = make(name, net)

    def note(what):
        return lambda optimizer, args, kwargs: calls.append(what)

    handles = [
        register_optimizer_step_pre_hook(note("any before")),
        register_optimizer_step_post_hook(note("any after")),
        optimizer.register_step_pre_hook(note("before")),
        optimizer.register_step_post_hook(note("after")),
    ]
    try:
        fit(net, optimizer, 0, 2)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == ["any before", "before", "after", "any after"] * 2
    fit(net, optimizer, 2, 3)
    assert len(calls) == 8


def tensors_of(optimizer):
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in states if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", NAMES)
def test_hooks_of_state_dicts(name):
    net = network(name)
    optimizer = make(name, net)
    fit(net, optimizer, 0, 3)
    calls = []
    optimizer.register_state_dict_pre_hook(lambda optimizer: calls.append("before"))
    optimizer.register_state_dict_post_hook(lambda optimizer, saved: saved | {"mine": 7})
    saved = copy.deepcopy(optimizer.state_dict())
    assert calls == ["before"]
    assert saved["mine"] == 7
    expected = fit(net, optimizer, 3, 5)
    # a hook before may replace the state dict, and one after sees what is loaded
    net = network(name)
    other = make(name, net)
    fit(net, other, 0, 3)
    fresh = make(name, net)
    nothing = {"state": {}, "param_groups": copy.deepcopy(fresh.state_dict()["param_groups"])}
    seen = {}

    def after(loaded):
        seen.update(copy.deepcopy(loaded.state_dict()))
        assert not any(x.requires_grad for x in tensors_of(loaded))

    fresh.register_load_state_dict_pre_hook(lambda optimizer, given: calls.append(given) or saved)
    fresh.register_load_state_dict_post_hook(after)
    fresh.load_state_dict(nothing)
    assert calls[1]["state"] == {}
    assert calls[1] is not nothing
    assert str(seen["state"]) == str(saved["state"])
    assert torch.equal(fit(net, fresh, 3, 5), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"decay": "independent", "weight_decay": 0.1},
        {"decay": "corrected", "weight_decay": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", WITHOUT_CLOSURE)
def test_the_step_at_lr_0_that_creates_states_is_harmless(name, settings):
    """`get_optimizer_state_dict` of a fresh optimizer makes a step with gradients of 0."""
    try:
        make(name, network(name), **settings)
    except (UsageError, TypeError):
        pytest.skip("the option is not for it")

    def trained(create, is_touched):
        net = network(name)
        optimizer = create(net)
        before = copy.deepcopy(net.state_dict())
        lrs = [group["lr"] for group in optimizer.param_groups]
        if is_touched:
            get_optimizer_state_dict(net, optimizer)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        assert [group["lr"] for group in optimizer.param_groups] == lrs
        return fit(net, optimizer, 0, 10)

    plain, touched = (
        trained(lambda net: make(name, net, **settings), is_) for is_ in (False, True)
    )
    if issubclass(class_of(name), OptimizerBase):
        assert torch.equal(plain, touched)
    else:  # torch counts the step: averages are then corrected for one more update
        assert (plain - touched).abs().max() < 0.1


@pytest.mark.parametrize("is_flat", [False, True])
@pytest.mark.parametrize("name", WITHOUT_CLOSURE)
def test_torchs_distributed_state_dicts_go_on_exactly(name, is_flat):
    options = StateDictOptions(flatten_optimizer_state_dict=is_flat)
    net = network(name)
    optimizer = make(name, net)
    fit(net, optimizer, 0, 3)
    weights = copy.deepcopy(net.state_dict())
    states = copy.deepcopy(get_optimizer_state_dict(net, optimizer, options=options))
    expected = fit(net, optimizer, 3, 6)
    other = network(name)
    other.load_state_dict(weights)
    resumed = make(name, other)
    set_optimizer_state_dict(other, resumed, states, options=options)
    assert torch.equal(fit(other, resumed, 3, 6), expected)
