"""Every parameter is in exactly one group, with or without weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_optim.errors import UsageError
from lit_optim.param_groups import no_decay, single, transformers


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.conv = nn.Conv1d(1, 4, 3)
        self.layer_norm = nn.LayerNorm([2, 4])  # a norm whose weight is a matrix
        self.batch_norm = nn.BatchNorm1d(4)
        self.group_norm = nn.GroupNorm(2, 4)
        self.rms_norm = nn.RMSNorm(4)
        self.gru = nn.GRU(4, 3)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embedding.weight  # tied


def names(module, group):
    return {n for n, p in module.named_parameters() if any(p is q for q in group["params"])}


def test_no_decay():
    module = Everything()
    decay, rest = no_decay(module)
    assert (decay["name"], rest["name"]) == ("decay", "no_decay")
    assert "weight_decay" not in decay
    assert rest["weight_decay"] == 0
    assert names(module, decay) == {
        "embedding.weight",
        "conv.weight",
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
    }
    assert names(module, decay) | names(module, rest) == dict(module.named_parameters()).keys()
    count = sum(len(group["params"]) for group in (decay, rest))
    assert count == len(list(module.parameters()))


class Named(nn.Module):
    """Layers whose names contain norm or bias, and some whose names do not."""

    def __init__(self):
        super().__init__()
        self.everything = Everything()
        self.norm = nn.BatchNorm1d(4)
        self.bn = nn.BatchNorm1d(4)
        self.enorm = nn.BatchNorm1d(4)
        self.up_norm = nn.Linear(4, 4)
        self.normal = nn.Linear(4, 4)
        self.RMSNorm_1 = nn.Linear(4, 4)
        self.my_layernorms = nn.Linear(4, 4)
        self.attention_bias = nn.Parameter(torch.ones(4, 4))
        self.Norm = nn.ParameterDict({"table": torch.ones(4, 4)})
        self.plain = nn.Parameter(torch.ones(4))
        self.ln = nn.LayerNorm(4)
        self.ln.adapter = nn.Linear(4, 4)  # inside of a LayerNorm
        self.layers = nn.ModuleList([nn.ModuleDict({"norm": nn.GroupNorm(2, 4)}), nn.LayerNorm(4)])
        self.again = self.layers[0]  # the same module by another name
        self.z_norm = nn.Linear(4, 4, bias=False)
        self.z_norm.weight = self.normal.weight  # tied: the first name decides
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


@pytest.mark.parametrize("make", [Named, Everything, lambda: nn.LayerNorm(4)])
@pytest.mark.filterwarnings("ignore")
def test_as_transformers_trainer(make):
    from transformers import Trainer

    module = make()
    expected = Trainer.get_decay_parameter_names(None, module)
    groups = {group["name"]: group for group in transformers(module)}
    named = dict(module.named_parameters())
    decayed = {name for name in named if name in expected}
    assert set(groups["decay"]["param_names"]) == names(module, groups["decay"]) == decayed
    assert names(module, groups["no_decay"]) == named.keys() - decayed
    assert "weight_decay" not in groups["decay"]
    assert groups["no_decay"]["weight_decay"] == 0
    assert 0 < len(decayed) < len(named)


def test_transformers_rule_needs_names():
    module = nn.Module()
    module._flat_param = nn.Parameter(torch.ones(9))
    with pytest.raises(UsageError, match="FSDP has flattened the parameters"):
        transformers(module)


def test_groups_go_into_an_optimizer():
    module = Everything()
    torch.optim.AdamW(no_decay(module))
    torch.optim.AdamW(transformers(module))
    torch.optim.AdamW(single(module))
    assert single(module)[0]["name"] == "all"


def test_an_empty_group_is_left_out():
    for make in (no_decay, transformers):
        assert [group["name"] for group in make(nn.Linear(2, 2, bias=False))] == ["decay"]


@pytest.mark.parametrize("make", [no_decay, transformers])
def test_frozen_parameters_stay_in(make):
    module = nn.Linear(2, 2)
    module.bias.requires_grad = False
    assert sum(len(group["params"]) for group in make(module)) == 2


@pytest.mark.parametrize("make", [no_decay, single, transformers])
def test_nothing_to_train(make):
    module = nn.Linear(2, 2)
    module.requires_grad_(False)
    for empty in (module, nn.ReLU()):
        with pytest.raises(UsageError, match="no trainable parameters"):
            make(empty)
