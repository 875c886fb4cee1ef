"""The description of parameters, from which groups, roles and layers follow."""

from __future__ import annotations

import copy
import inspect
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

from lit_optim import Muon, param_groups
from lit_optim.errors import UsageError
from lit_optim.param_groups import (
    by_role,
    by_rules,
    describe_parameters,
    layer_decay,
    no_decay,
    roles,
    single,
    transformers,
)
from tests.lightning.modules import Plain


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))


class Transformer(nn.Module):
    def __init__(self, blocks=3):
        super().__init__()
        self.token = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
        )
        self.fc = nn.Linear(4, 2)


def stack():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def plain():
    net = nn.Module()
    net.first, net.second, net.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    return net


NETWORKS = {
    "transformer": Transformer,
    "convolutional": Convolutional,
    "stack": stack,
    "plain": plain,
    "linear": partial(nn.Linear, 3, 2),
    "convolution": partial(nn.Conv2d, 3, 4, 3),
}
FREEZE = {
    "frozen": lambda net: net.requires_grad_(False),
    "eval": lambda net: net.eval(),
    "both": lambda net: net.requires_grad_(False).eval(),
}


def describe(module, prefix=""):
    """Return role, split and lr multiplier of the parameters with this prefix."""
    shares = {
        name: group["lr_mult"]
        for group in layer_decay(module, decay=0.5)
        for name in group["param_names"]
    }
    return {
        info.name.removeprefix(prefix): (info.role, info.split, shares[info.name])
        for info in describe_parameters(module)
        if info.name.startswith(prefix)
    }


class Holder(nn.Module):
    """A module that holds networks under names, in any order."""

    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_frozen_modules_outside_of_the_network_change_nothing(data):
    """The reference is the network alone, in the same kind of module."""
    student = NETWORKS[data.draw(st.sampled_from(["transformer", "convolutional", "stack"]))]()
    alone = describe(Holder(student=student), "student.")
    parts = [("student", student)]
    for k in range(data.draw(st.integers(1, 3))):
        beside = NETWORKS[data.draw(st.sampled_from(sorted(NETWORKS)))]()
        beside = FREEZE[data.draw(st.sampled_from(sorted(FREEZE)))](beside)
        if data.draw(st.booleans()):  # deeper
            beside = Holder(inner=beside)
            beside.train(beside.inner.training)
        parts.insert(data.draw(st.integers(0, len(parts))), (f"beside{k}", beside))
    module = Holder(**dict(parts))
    found = describe(module, "student.")
    assert found == alone
    others = {n: role for n, (role, *_) in describe(module).items() if not n.startswith("student.")}
    assert "head" not in others.values()
    assert len(describe(module)) == len(list(module.parameters()))
    assert roles(module).keys() == describe(module).keys()


@pytest.mark.parametrize("name", ["transformer", "convolutional", "stack"])
def test_a_rule_that_freezes_the_teacher_counts_too(name):
    student, teacher = NETWORKS[name](), NETWORKS[name]()
    alone = describe(Holder(student=student), "student.")
    module = Holder(student=student, teacher=teacher)
    rules = [{"name": "teacher.*", "frozen": True}, {"role": "head", "lr_mult": 8.0}]
    if "head" not in {role for role, *_ in alone.values()}:
        rules.pop()
    groups = by_rules(module, rules, base="layer_decay")
    assert describe(module, "student.") == alone
    by_name = {n: g for g in groups for n in g["param_names"] if n.startswith("student.")}
    for n, group in by_name.items():
        height = round(-math.log2(alone[n.removeprefix("student.")][2]))
        assert group["lr_mult"] in (0.75**height, 8.0)
    heads = [n for n, g in by_name.items() if g["lr_mult"] == 8.0]
    assert heads == [f"student.{n}" for n, (role, *_) in alone.items() if role == "head"]


def test_a_frozen_backbone_has_its_layers_below_the_head():
    module = Holder(backbone=Transformer(2).requires_grad_(False), head=nn.Linear(4, 3))
    found = describe(module)
    assert found["head.weight"] == ("head", 1, 1.0)
    shares = [found[f"backbone.blocks.{k}.mlp.0.weight"][2] for k in (0, 1)]
    assert shares[0] < shares[1] < 1
    assert found["backbone.token.weight"][0] == "embedding"
    assert found["backbone.token.weight"][2] < shares[0]
    module.backbone.requires_grad_(True)  # as if it had been unfrozen from the start
    assert {n: share for n, (_, _, share) in describe(module).items()} == {
        n: share for n, (_, _, share) in found.items()
    }


@pytest.mark.parametrize("lowest", [1, 2, 3])
def test_frozen_lower_blocks_of_a_stack_keep_their_places(lowest):
    def net():
        return nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(5)), nn.Linear(3, 2))

    module, whole = net(), describe(net())
    module[:lowest].requires_grad_(False)
    assert describe(module) == whole
    assert whole["0.weight"][0] == "first"


def test_rules_that_freeze_by_role_decide_the_same_again():
    module = Holder(first=nn.Linear(3, 4), second=nn.Linear(4, 4), out=nn.Linear(4, 2))
    for _ in range(3):
        by_rules(module, [{"role": "head", "frozen": True}])
        frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
        assert frozen == {"out.weight"}
    by_rules(module, [{"name": "first.*", "frozen": True}])
    assert {n for n, p in module.named_parameters() if not p.requires_grad} == {
        "first.weight",
        "first.bias",
    }


def test_pretrained_networks_in_eval_mode_are_trained():
    """If nothing else could be the network, eval mode is ignored."""
    expected = describe(Holder(net=Transformer()))
    assert describe(Holder(net=Transformer().eval())) == expected


MAKES = {
    "no_decay": no_decay,
    "single": single,
    "transformers": transformers,
    "layer_decay": layer_decay,
    "by_rules": partial(by_rules, base="single"),
    "roles": roles,
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
@pytest.mark.parametrize(
    "lazy",
    [nn.LazyLinear(4), nn.LazyConv2d(4, 3), nn.LazyBatchNorm1d(), nn.LazyConvTranspose1d(3, 2)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_a_shape_is_in_no_group(make, lazy):
    module = nn.Sequential(nn.Linear(3, 3), Holder(inner=lazy))
    with pytest.raises(UsageError, match=r"the layer 1\.inner \(Lazy\w+\) has no shape") as error:
        make(module)
    assert "\n" not in str(error.value)


def test_a_lazy_layer_that_has_seen_a_batch_is_any_layer():
    module = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2))
    module(torch.ones(2, 3))
    assert describe(module) == describe(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(4, 2))

    def forward(self, x):
        return x + self.up @ self.down


def test_a_parametrized_tensor_has_the_role_of_its_tensor():
    expected = describe(Transformer())
    module = Transformer()
    for layer in [*module.modules()]:
        if isinstance(layer, nn.Linear | nn.Embedding):
            parametrize.register_parametrization(layer, "weight", Double())
    for linear in (module.blocks[0].mlp[0], module.head):
        parametrize.register_parametrization(linear, "bias", Double())
    assert describe(module) == expected
    names = {n for group in no_decay(module) for n in group["param_names"]}
    assert names == expected.keys()
    rest = [n for g in no_decay(module) for n in g["param_names"] if "weight_decay" in g]
    alone = [n for g in no_decay(Transformer()) for n in g["param_names"] if "weight_decay" in g]
    assert sorted(rest) == sorted(alone)


@pytest.mark.parametrize("new", [True, False], ids=["parametrization", "old"])
@pytest.mark.filterwarnings("ignore")
def test_weight_normalization(new):
    normalized = parametrizations.weight_norm if new else weight_norm
    module = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Linear(4, 4), nn.Linear(4, 3))
    expected = {n: role for n, (role, *_) in describe(module).items() if n.endswith("weight")}
    for layer in module:
        normalized(layer)
    found = {n: role for n, (role, *_) in describe(module).items() if not n.endswith("bias")}
    magnitude, direction = ("weight.original0", "weight.original1") if new else (
        "weight_g", "weight_v"
    )  # fmt: skip
    assert {n for n, role in found.items() if role == "vector"} == {
        f"{k}.{magnitude}" for k in range(3)
    }
    assert {n.replace(direction, "weight"): found[n] for n in found if n.endswith(direction)} == (
        expected
    )
    rest = {n for g in no_decay(module) if "weight_decay" in g for n in g["param_names"]}
    assert all(f"{k}.{magnitude}" in rest for k in range(3))


def test_low_rank_parametrizations_belong_to_their_layer():
    module = Holder(mid=nn.Linear(4, 4), out=nn.Linear(4, 4))
    for layer in (module.mid, module.out):
        parametrize.register_parametrization(layer, "weight", LowRank())
    found = describe(module)
    assert {n: found[n][0] for n in found if not n.endswith("bias")} == {
        "mid.weight": "hidden", "mid.weight.0.down": "hidden", "mid.weight.0.up": "hidden",
        "out.weight": "head", "out.weight.0.down": "head", "out.weight.0.up": "head",
    }  # fmt: skip


def inside(make):
    """Return a model with a compiled network."""
    return Holder(net=make(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: torch.compile(module),
        lambda module: inside(torch.compile),
        lambda module: torch.compile(inside(torch.compile)),
        lambda module: nn.DataParallel(module),
        lambda module: inside(nn.DataParallel),
    ],
    ids=["compiled", "part", "twice", "DataParallel", "part of DataParallel"],
)
def test_names_do_not_contain_wrappers(wrap):
    wrapped, bare = wrap(inside(lambda net: net)), inside(lambda net: net)
    assert describe(wrapped) == describe(bare)
    raw = [name for name, _ in wrapped.named_parameters()]
    assert [name for info in describe_parameters(wrapped) for name in info.raw_names] == raw
    for name in ("net.0.weight", raw[0]):  # as it was written, and as torch has it
        groups = by_rules(wrapped, [{"name": name, "lr_mult": 2.0}])
        assert [g["param_names"] for g in groups if "lr_mult" in g] == [["net.0.weight"]]
    with pytest.raises(UsageError, match=r"did you mean net\.0\.weight"):
        by_rules(wrapped, [{"name": "net.0.wieght", "lr_mult": 2.0}])


def test_an_attribute_called_module_is_no_wrapper():
    module = Holder(module=stack())
    assert all(info.name.startswith("module.") for info in describe_parameters(module))


def test_shared_parameters_have_all_their_names():
    module = Holder(token=nn.Embedding(5, 4), mid=nn.Linear(4, 4), head=nn.Linear(4, 5))
    module.head.weight = module.token.weight
    infos = {info.name: info for info in describe_parameters(module)}
    assert infos["token.weight"].names == ("token.weight", "head.weight")
    assert infos["token.weight"].role == "embedding"
    groups = by_rules(module, [{"name": "head.*", "lr_mult": 2.0}])
    assert sorted(n for g in groups if "lr_mult" in g for n in g["param_names"]) == [
        "head.bias",
        "token.weight",
    ]
    assert len(infos) == len(list(module.parameters()))


def test_a_module_that_contains_itself():
    module = Plain()
    module.net.owner = module
    assert [info.name for info in describe_parameters(module)] == [
        name for name, _ in module.named_parameters()
    ]


def test_the_head_of_the_trained_network_goes_to_adamw():
    student = stack()
    teacher = copy.deepcopy(student).requires_grad_(False)
    module = Holder(student=student, teacher=teacher)
    optimizer = Muon(by_role(no_decay(module), module), lr=0.02)
    owners = {n: type(optimizer.owner(g)).__name__ for g in optimizer.param_groups
              for n in g["param_names"]}  # fmt: skip
    assert owners["student.4.weight"] == "AdamW"
    assert owners["student.2.weight"] == owners["student.0.weight"] == "Muon"


@pytest.mark.parametrize("pattern", ["net.0.weight", "net._orig_mod.0.weight", "*0.weight"])
def test_roles_by_name_of_a_compiled_part(pattern):
    module = inside(torch.compile)
    module.mid = nn.Linear(4, 4)
    module.out = nn.Linear(4, 4)
    optimizer = Muon(by_role(no_decay(module), module), lr=0.02, roles={pattern: "other"})
    owners = {n: type(optimizer.owner(g)).__name__ for g in optimizer.param_groups
              for n in g["param_names"]}  # fmt: skip
    assert owners["net.0.weight"] == "AdamW"
    assert owners["mid.weight"] == "Muon"


NAMED = [getattr(param_groups, name) for name in param_groups.__all__]
FUNCTIONS = [param_groups, *filter(inspect.isfunction, NAMED)]
OF_A_MODULE = [f for f in FUNCTIONS if "module" in inspect.signature(f).parameters]


@pytest.mark.parametrize("function", OF_A_MODULE, ids=lambda f: f.__name__)
def test_what_is_no_module_is_refused_in_one_line(function):
    others = {"groups": [], "make": no_decay, "rules": [], "base": no_decay}
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    for wrong in (nn.Linear(2, 2).parameters(), [nn.Linear(2, 2)], nn.Linear, "model", None):
        arguments = {p.name: wrong if p.name == "module" else others[p.name] for p in needed}
        with pytest.raises(UsageError, match=r"^param groups are made of a model, .*, got [^\n]*$"):
            function(**arguments)
