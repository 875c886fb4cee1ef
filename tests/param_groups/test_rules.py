"""Param groups by rules, as in YAML."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from lit_optim import AdamW, Muon
from lit_optim.errors import UsageError
from lit_optim.making import make_optimizer
from lit_optim.param_groups import by_role, by_rules, read_rule_settings, single
from lit_optim.schedules.library import cosine_warmup
from tests.lightning.modules import Data, Plain, attach, trainer


def net():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "token": nn.Embedding(5, 4),
            "blocks": nn.ModuleList(nn.Linear(4, 4) for _ in "abc"),
            "norm": nn.LayerNorm(4),
            "head": nn.Linear(4, 5),
        }
    )


def describe(groups):
    """Return the settings of each group by the names of its parameters."""
    known = {"params", "param_names", "name"}
    return {tuple(g["param_names"]): {k: v for k, v in g.items() if k not in known} for g in groups}


def test_rules_merge_and_for_each_key_the_first_wins():
    rules = [
        {"name": "blocks.0.*", "lr_mult": 0.1},
        {"role": "head", "lr_mult": 10},
        {"regex": r"blocks\.[01]\.weight$", "lr_mult": 5.0, "weight_decay": 0.3},
        {"module": "Embedding", "betas": [0.8, 0.9]},
    ]
    groups = by_rules(net(), rules)
    assert describe(groups) == {
        ("token.weight",): {"betas": [0.8, 0.9]},
        ("blocks.0.weight",): {"lr_mult": 0.1, "weight_decay": 0.3},
        ("blocks.1.weight",): {"lr_mult": 5.0, "weight_decay": 0.3},
        ("blocks.2.weight",): {},
        ("head.weight",): {"lr_mult": 10},
        ("blocks.0.bias",): {"lr_mult": 0.1, "weight_decay": 0.0},
        ("blocks.1.bias", "blocks.2.bias", "norm.weight", "norm.bias", "head.bias"): {
            "weight_decay": 0.0
        },
    }
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)
    assert "decay.head" in names
    optimizer = AdamW(groups, lr=0.1)
    lrs = {g["name"]: g["lr"] for g in optimizer.param_groups}
    assert lrs["decay.head"] == pytest.approx(1.0)
    assert lrs["decay"] == 0.1
    assert not any("lr_mult" in group for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ({"ndim": 1, "module": "LayerNorm"}, {"norm.weight", "norm.bias"}),
        ({"module": "Module", "name": ["*.bias", "token*"]}, {"token.weight", "head.bias"}),
        ({"ndim": [1, 2], "regex": "^head"}, {"head.weight", "head.bias"}),
        ({"role": ["embedding", "norm"]}, {"token.weight", "norm.weight"}),
    ],
    ids=lambda x: str(sorted(x)),
)
def test_which_parameters_a_rule_matches(match, names):
    found = by_rules(net(), [match | {"lr_mult": 2.0}], base="single")
    about = {name for g in found if g.get("lr_mult") == 2.0 for name in g["param_names"]}
    assert names <= about
    assert "blocks.0.weight" not in about


def test_frozen_parameters_stay_in_a_group_and_do_not_move(tmp_path):
    module = Plain()
    rules = [{"name": "net.0.*", "frozen": True}]
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    attach(module, None, cosine_warmup(), partial(by_rules, rules=rules))
    trainer(tmp_path, max_steps=5).fit(module, Data())
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("net.0."), name
    optimizer = module.trainer.optimizers[0]
    assert sorted(n for g in optimizer.param_groups for n in g["param_names"]) == sorted(before)
    assert not any("frozen" in group for group in optimizer.param_groups)


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW], ids=["ours", "torch's"])
def test_an_lr_mult_holds_under_a_schedule(make, tmp_path):
    module = Plain()
    rules = [{"name": "net.2.*", "lr_mult": 10}]
    attach(module, partial(make, lr=0.01), cosine_warmup(), partial(by_rules, rules=rules))
    trainer(tmp_path, max_steps=12).fit(module, Data())
    groups = module.trainer.optimizers[0].param_groups
    mult = [10.0 if g["param_names"][0].startswith("net.2") else 1.0 for g in groups]
    assert set(mult) == {1.0, 10.0}
    for lrs in module.lrs:
        assert [lr / m for lr, m in zip(lrs, mult, strict=True)] == pytest.approx(
            [lrs[mult.index(1.0)]] * len(mult)
        )


def test_rules_and_roles_go_together():
    rules = [{"name": "blocks.2.*", "lr_mult": 0.5}]
    module = net()
    optimizer = Muon(by_role(by_rules(module, rules), module), lr=0.2, adamw_lr=0.01)
    lrs = {g["name"]: g["lr"] for g in optimizer.param_groups}
    assert lrs["decay.hidden"] == 0.2
    assert lrs["decay.blocks.2.hidden"] == pytest.approx(0.1)
    assert lrs["decay.head"] == 0.01
    assert lrs["no_decay.blocks.2.bias"] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"name": "heads.*", "lr_mult": 2}], "rules.0 matches no parameter: name=heads.*"),
        ([{"module": "Embeding", "lr_mult": 2}], "did you mean Embedding?"),
        ([{"role": "heads", "lr_mult": 2}], "did you mean head?"),
        ([{"lr_mult": 2}], "rules.0 must say which parameters it matches"),
        ([{"name": "*"}], "rules.0 sets nothing"),
        ([{"name": "*", "lr_mult": 0}], "rules.0.lr_mult must be a number > 0, got 0"),
        ([{"name": "*", "lr_mult": math.nan}], "rules.0.lr_mult must be a number > 0, got nan"),
        ([{"name": "*", "frozen": "yes"}], "rules.0.frozen must be true or false, got 'yes'"),
        ([{"name": "*", "frozen": True}], "freeze every parameter"),
        ([{"regex": "(", "lr_mult": 2}], "rules.0.regex='(' is not a regular expression"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(rules, message):
    with pytest.raises(UsageError) as error:
        by_rules(net(), rules)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_rules_need_no_model():
    rules = [{"name": "a", "lr_mult": 2, "frozen": True}, {"role": "head", "wieght_decay": 0.1}]
    first, second = read_rule_settings(rules)
    assert first == {"lr_mult": 2}
    p = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(UsageError, match="AdamW has no 'wieght_decay'; a param group may set lr,"):
        AdamW([{"params": [p]} | second])


def test_an_lr_that_is_null_has_no_multiple():
    from lit_optim import AdafactorHF

    p = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(UsageError, match="lr_mult=2 is a factor of lr, but lr is null"):
        AdafactorHF([{"params": [p], "lr_mult": 2}])


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW, partial(make_optimizer, AdamW)])
def test_an_lr_mult_beside_an_lr_is_a_key_of_other_code(make):
    """mmengine and others note in a group the factor that they have multiplied into its lr."""
    groups = [
        {"params": [nn.Parameter(torch.zeros(2, 2))], "lr": 0.01, "lr_mult": 0.1, "decay_mult": 0},
        {"params": [nn.Parameter(torch.zeros(2))], "lr": 0.1},
    ]
    optimizer = make(groups)
    assert [(g["lr"], g.get("lr_mult")) for g in optimizer.param_groups] == [
        (0.01, 0.1),
        (0.1, None),
    ]
    for group in optimizer.param_groups:  # as such code goes on
        group["lr"] = 0.05 * group.get("lr_mult", 1.0)
    again = make([{"params": group["params"]} for group in optimizer.param_groups])
    again.load_state_dict(optimizer.state_dict())
    assert [g["lr"] for g in again.param_groups] == pytest.approx([0.005, 0.05])


@pytest.mark.parametrize("kind", [AdamW, torch.optim.AdamW])
def test_rules_set_an_lr_and_its_factor(kind):
    rules = [
        {"ndim": 2, "lr_mult": 0.5},
        {"name": "head.*", "lr": 0.2},
        {"name": "blocks.*", "lr_mult": 3},
    ]
    made = make_optimizer(partial(kind, lr=0.1), by_rules(net(), rules))
    lrs = {g["name"]: g["lr"] for g in made.param_groups}
    assert lrs["decay.2+head"] == pytest.approx(0.1)  # 0.5 of 0.2
    assert lrs["no_decay.head"] == pytest.approx(0.2)
    assert lrs["no_decay.blocks"] == pytest.approx(0.3)


def test_without_rules_groups_are_those_of_the_base():
    module = net()
    assert [g["name"] for g in by_rules(module, base="single")] == ["all"]
    assert describe(by_rules(module, base="single")) == describe(single(module))


@pytest.mark.parametrize(
    ("key", "meant"), [("lr_mul", "lr_mult"), ("lrmult", "lr_mult"), ("frozn", "frozen")]
)
def test_a_misspelled_setting_of_a_rule_is_named(key, meant):
    with pytest.raises(ValueError, match=f"has no '{key}'; did you mean {meant}") as refused:
        read_rule_settings([{"role": "head", key: 2}])
    assert "A rule sets lr_mult, frozen, split, transposed or a hyperparameter" in str(
        refused.value
    )
