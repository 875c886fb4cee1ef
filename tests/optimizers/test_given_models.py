"""What optimizers make of a model, of its generators, and of parameters without roles."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

import lit_optim.param_groups
from lit_optim.errors import UsageError
from lit_optim.optimizers.base.parameters import MissingRoles
from lit_optim.param_groups import (
    by_role,
    by_rules,
    layer_decay,
    no_decay,
    single,
    transformers,
)
from tests.optimizers.running import NAMES, class_of

WITH_ROLES = [name for name in NAMES if "roles" in getattr(class_of(name), "requirements", ())]
OTHERS = [name for name in NAMES if name not in WITH_ROLES]


def model(matrices_only=False):
    torch.manual_seed(0)
    bias = not matrices_only
    layers = [nn.Embedding(7, 6), nn.Linear(6, 6, bias=bias), nn.Linear(6, 6, bias=bias)]
    layers += [nn.LayerNorm(6)] if bias else []
    return nn.Sequential(*layers, nn.Linear(6, 3, bias=bias)).double()


#: All that names a model.
WAYS = {
    "the model": lambda net: net,
    "its parameters": lambda net: net.parameters(),
    "its named parameters": lambda net: net.named_parameters(),
    "compiled": lambda net: torch.compile(net),
    "compiled parameters": lambda net: torch.compile(net).parameters(),
    "groups": lambda net: lit_optim.param_groups(net),
}


def described(optimizer, net):
    names = {id(p): name for name, p in net.named_parameters()}
    keys = ("name", "role", "split", "weight_decay", "lr", "param_names")
    return [
        [names[id(p)] for p in group["params"]] + [group.get(key) for key in keys]
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WITH_ROLES)
def test_roles_are_found_in_a_model(name, way):
    net = model()
    expected = class_of(name)(by_role(no_decay(net), net))
    assert described(class_of(name)(WAYS[way](net)), net) == described(expected, net)


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_is_all_its_parameters_in_one_group(name):
    """As `model.parameters()`: neither how a model is given nor its layers change an update."""
    results = []
    for given in (
        lambda net: net,
        lambda net: net.parameters(),
        lambda net: net.named_parameters(),
    ):
        net = model(matrices_only=name == "muon_torch")
        net[0].requires_grad_(False)
        optimizer = class_of(name)(given(net))
        x = torch.randint(7, (4,), generator=torch.Generator().manual_seed(1))

        def closure(net=net, optimizer=optimizer, x=x):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            closure()
            optimizer.step(closure if name == "lbfgs" else None)
        assert len(optimizer.param_groups) == 1
        assert len(optimizer.param_groups[0]["params"]) == len(list(net.parameters()))
        results.append(copy.deepcopy(net.state_dict()))
    for other in results[1:]:
        for key, value in results[0].items():
            assert torch.equal(value, other[key])


@pytest.mark.parametrize("name", NAMES)
def test_groups_for_any_optimizer(name):
    net = model(matrices_only=name == "muon_torch")
    groups = lit_optim.param_groups(net)
    optimizer = class_of(name)(groups)
    members = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, members)) == sorted(map(id, net.parameters()))


def test_bases_and_rules_of_the_callable_package():
    net = model()
    assert lit_optim.param_groups(net, "layer_decay") == by_role(layer_decay(net), net)
    groups = lit_optim.param_groups(net, rules=[{"role": "head", "lr_mult": 10}])
    assert [group.get("lr_mult") for group in groups if group["role"] == "head"] == [10]
    with pytest.raises(UsageError, match=r"base must be one of no_decay, .*, got 'layers'"):
        lit_optim.param_groups(net, "layers")


def begun(net):
    generator = net.parameters()
    next(generator)
    return generator


@pytest.mark.parametrize(
    "given",
    [
        lambda net: list(net.parameters()),
        lambda net: list(net.named_parameters()),
        begun,
        lambda net: filter(lambda p: p.requires_grad, net.parameters()),
        lambda net: [{"params": list(net.parameters())}],
        lambda net: [{"params": list(net.named_parameters()), "lr": 0.1}],
        lambda net: [*no_decay(net)],
    ],
    ids=["list", "named", "begun", "filter", "group", "named_group", "plain_list"],
)
@pytest.mark.parametrize("name", WITH_ROLES)
def test_parameters_without_roles_are_refused_when_made(name, given):
    with pytest.raises(MissingRoles) as refused:
        class_of(name)(given(model()))
    message, label = str(refused.value), class_of(name).__name__
    assert f"{label}(model)" in message
    assert "lit_optim.param_groups(model)" in message
    assert "\n" not in message


@pytest.mark.parametrize("make", [no_decay, single, transformers, layer_decay, by_rules])
@pytest.mark.parametrize("name", WITH_ROLES)
def test_groups_of_a_module_are_divided_by_role(name, make):
    net = model()
    expected = class_of(name)(by_role(make(net), net))
    assert described(class_of(name)(make(net)), net) == described(expected, net)
    foreign = make(net)
    foreign.append({"params": [nn.Parameter(torch.ones(3))]})
    with pytest.raises(MissingRoles):
        class_of(name)(foreign)


@pytest.mark.parametrize("name", WITH_ROLES)
def test_matrices_without_roles_are_hidden_with_one_warning(name, caplog):
    a, b = (nn.Parameter(torch.eye(3)) for _ in range(2))
    with caplog.at_level(logging.WARNING, "lit_optim"):
        optimizer = class_of(name)([{"params": [a]}, {"params": [b]}])
    assert [optimizer.owner(group) for group in optimizer.param_groups] == [optimizer] * 2
    assert len(caplog.records) == 1
    assert f"{class_of(name).__name__}(model)" in caplog.text


@pytest.mark.parametrize("name", WITH_ROLES)
def test_a_group_that_is_added_later_is_asked_for_its_role_too(name):
    net = model()
    optimizer = class_of(name)(net)
    vector = nn.Parameter(torch.ones(3))
    with pytest.raises(MissingRoles, match=r"parameter number 0 has shape \[3\]"):
        optimizer.add_param_group({"params": [vector]})
    with pytest.raises(UsageError, match=r"parameter v has shape \[3\]: give its group"):
        optimizer.add_param_group({"params": [("v", vector)], "role": "hidden"})
    assert described(optimizer, net) == described(class_of(name)(net), net)
    optimizer.add_param_group({"params": [("v", vector)], "role": "vector"})


def test_a_part_of_a_model_and_its_prefix():
    net = model()
    optimizer = class_of("muon")(net.named_parameters(prefix="net"))
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(f"net.{name}" for name, _ in net.named_parameters())
    alone = nn.ParameterList([torch.ones(2, 3)])
    alone.rest = model()
    optimizer = class_of("muon")(alone.parameters(recurse=False))
    assert [group["params"] for group in optimizer.param_groups] == [[alone[0]]]


@pytest.mark.parametrize("kind", ["module", "generator", "named"])
@pytest.mark.parametrize("name", NAMES)
def test_a_group_may_be_of_a_part_of_the_model(name, kind):
    if name == "lbfgs":
        pytest.skip("it has one group only")
    net = model(matrices_only=name == "muon_torch")
    given = {
        "module": lambda part: part,
        "generator": lambda part: part.parameters(),
        "named": lambda part: part.named_parameters(),
    }[kind]
    lr = {"lr": 0.5} if name != "adafactor_hf" else {}
    optimizer = class_of(name)([{"params": given(net[:-1]), "name": "body"} | lr])
    optimizer.add_param_group({"params": given(net[-1:]), "name": "head"} | lr)
    groups = optimizer.param_groups
    members = {g["name"].partition(".")[0]: [] for g in groups}
    for group in groups:
        members[group["name"].partition(".")[0]] += group["params"]
    assert {part: set(params) for part, params in members.items()} == {
        "body": set(net[:-1].parameters()),
        "head": set(net[-1:].parameters()),
    }
    if lr:
        assert {group["lr"] for group in groups} == {0.5}
    if name in WITH_ROLES:
        of_head = {g["role"] for g in groups if g["name"].startswith("head")}
        assert of_head == {"head", "bias"}


@pytest.mark.parametrize("name", WITH_ROLES)
def test_patterns_do_not_make_a_vector_hidden(name):
    net = model()
    with pytest.raises(MissingRoles):
        class_of(name)(list(net.named_parameters()), roles={"0.weight": "other"})
    matrices = [(n, p) for n, p in net.named_parameters() if p.ndim > 1]
    optimizer = class_of(name)(matrices, roles={"0.weight": "other"})
    assert [group["role"] for group in optimizer.param_groups] == ["other", "hidden"]


def test_groups_in_keller_jordans_form_are_divided_by_use_muon():
    net = model()
    hidden = [net[1].weight, net[2].weight]
    rest = [p for p in net.parameters() if p.ndim < 2 or p is net[0].weight or p is net[4].weight]
    for name in WITH_ROLES:
        groups = [
            {"params": hidden, "use_muon": True, "lr": 0.02},
            {"params": rest, "use_muon": False, "lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10},
        ]
        optimizer = class_of(name)(groups)
        assert [group["role"] for group in optimizer.param_groups] == ["hidden", "other"]
        assert optimizer.param_groups[1]["eps"] == 1e-10
        with pytest.raises(UsageError, match="use_muon=True contradicts role=other"):
            class_of(name)([{"params": hidden, "use_muon": True, "role": "other"}])
        with pytest.raises(UsageError, match="use_muon must be True or False, got 'yes'"):
            class_of(name)([{"params": hidden, "use_muon": "yes"}])


def test_use_muon_trains_the_others_as_torchs_adamw():
    net, twin = model(), model()
    rest = [net[0].weight]
    optimizer = class_of("muon")(
        [
            {"params": [net[1].weight], "use_muon": True},
            {"params": rest, "use_muon": False, "lr": 0.1, "weight_decay": 0.0},
        ]
    )
    theirs = torch.optim.AdamW([twin[0].weight], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    for p in (net[0].weight, net[1].weight, twin[0].weight):
        p.grad = torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    optimizer.step()
    theirs.step()
    torch.testing.assert_close(net[0].weight, twin[0].weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("compile_model", [torch.jit.script, "trace"])
def test_torchscript_is_refused_where_classes_of_layers_decide(compile_model):
    net = model()
    if compile_model == "trace":
        compiled = torch.jit.trace(net, torch.zeros(2, dtype=torch.long))
    else:
        compiled = compile_model(net)
    with pytest.raises(UsageError, match="pass the model that was compiled"):
        class_of("muon")(compiled)
    optimizer = class_of("adamw")(compiled)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in net.parameters()
    }


def test_parameters_without_roles_are_told_what_to_do_when_added_too():
    net = model()
    optimizer = class_of("muon")(net)
    layer = nn.Linear(6, 6).double()
    with pytest.raises(MissingRoles, match="which add_param_group takes one by one"):
        optimizer.add_param_group({"params": list(layer.parameters())})
    for group in lit_optim.param_groups(layer):
        optimizer.add_param_group(group)
    added = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in layer.parameters()} <= added


def test_a_state_from_before_a_projection_was_known_as_fused_goes_on():
    """Three groups then and now, but `to_qkv` was in the first one, and is in the second one."""
    outputs = {"lin": 6, "to_qkv": 18, "qkv": 18, "head": 2}
    net = nn.ModuleDict({name: nn.Linear(6, n, bias=False) for name, n in outputs.items()})
    now = lit_optim.param_groups(net)
    fused = ["to_qkv.weight", "qkv.weight"]
    assert [group["param_names"] for group in now] == [["lin.weight"], fused, ["head.weight"]]
    before = copy.deepcopy(now)
    for key in ("params", "param_names"):
        before[0][key].append(before[1][key].pop(0))
    muon = class_of("muon")
    old, new = muon(before, lr=0.1), muon(now, lr=0.1)
    for group in old.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    old.step()
    old.param_groups[0]["lr"] = old.param_groups[1]["lr"] = 0.05
    new.load_state_dict(old.state_dict())
    kept = {
        name: old.state[p]["momentum_buffer"]
        for group in old.param_groups[:2]
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }
    for group in new.param_groups[:2]:
        assert group["lr"] == 0.05
        for name, p in zip(group["param_names"], group["params"], strict=True):
            assert new.state[p]["momentum_buffer"].equal(kept[name])
    assert [group.get("split", 1) for group in new.param_groups] == [1, 3, 1]
    for group in new.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    new.step()
    # other settings than those of the group that it joins: nothing can be decided
    old.param_groups[0]["lr"] = 0.07
    with pytest.raises(ValueError, match="doesn't match the size"):
        new.load_state_dict(old.state_dict())
