"""Roles of parameters, read from the modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_optim.param_groups import by_role, no_decay, roles, single


def describe(module):
    return {name: (place.role, place.split) for name, place in roles(module).items()}


def test_a_convolutional_network():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 1),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(16, 32),
        nn.Linear(32, 10),
    )
    assert describe(net) == {
        "0.weight": ("first", 1),
        "0.bias": ("bias", 1),
        "1.weight": ("norm", 1),
        "1.bias": ("bias", 1),
        "2.weight": ("other", 1),
        "2.bias": ("bias", 1),
        "3.weight": ("hidden", 1),
        "3.bias": ("bias", 1),
        "4.weight": ("vector", 1),
        "6.weight": ("hidden", 1),
        "6.bias": ("bias", 1),
        "7.weight": ("head", 1),
        "7.bias": ("bias", 1),
    }


class Tied(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.pos_emb = nn.Parameter(torch.zeros(4, 8))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in "ab")
        if head:
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.wte.weight


@pytest.mark.parametrize("head", [True, False])
def test_a_tied_head_is_an_embedding_and_blocks_have_no_head(head):
    found = describe(Tied(head))
    assert found["wte.weight"] == found["pos_emb"] == ("embedding", 1)
    assert {role for name, (role, _) in found.items() if name.endswith(".weight")} == {
        "embedding",
        "hidden",
    }
    assert "head.weight" not in found  # one parameter, by its first name


def test_fused_projections_and_gates_are_several_matrices():
    block = nn.Module()
    block.qkv, block.proj = nn.Linear(8, 24), nn.Linear(8, 8)
    block.lstm, block.gru = nn.LSTM(4, 6), nn.GRU(4, 6)
    block.attention = nn.MultiheadAttention(8, 2)
    block.out = nn.Linear(8, 3)
    found = describe(block)
    assert found["qkv.weight"] == ("hidden", 3)
    assert found["proj.weight"] == ("hidden", 1)
    assert found["lstm.weight_ih_l0"] == found["lstm.weight_hh_l0"] == ("hidden", 4)
    assert found["gru.weight_hh_l0"] == ("hidden", 3)
    assert found["attention.in_proj_weight"] == ("hidden", 3)
    assert found["attention.in_proj_bias"] == ("bias", 1)
    assert found["out.weight"] == ("head", 1)


def test_transformers_models():
    config = pytest.importorskip("transformers").GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=0
    )
    from transformers import GPT2LMHeadModel, ViTConfig, ViTForImageClassification

    gpt = describe(GPT2LMHeadModel(config))
    assert gpt["transformer.wte.weight"] == gpt["transformer.wpe.weight"] == ("embedding", 1)
    assert gpt["transformer.h.1.mlp.c_fc.weight"] == ("hidden", 1)
    assert {role for role, _ in gpt.values()} == {"embedding", "hidden", "norm", "bias"}
    vit = describe(
        ViTForImageClassification(
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=32,
            )
        )
    )
    assert vit["classifier.weight"] == ("head", 1)
    assert vit["vit.embeddings.patch_embeddings.projection.weight"] == ("first", 1)
    assert vit["vit.embeddings.cls_token"] == ("other", 1)


def test_groups_are_divided_by_role_and_keep_their_settings():
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 2))
    given = [group | {"lr": 0.5} for group in no_decay(net)]
    divided = by_role(given, net)
    assert [(g["name"], g["role"], g["param_names"], g["lr"]) for g in divided] == [
        ("decay.hidden", "hidden", ["0.weight", "2.weight"], 0.5),
        ("decay.head", "head", ["3.weight"], 0.5),
        ("no_decay.bias", "bias", ["0.bias", "1.bias", "2.bias", "3.bias"], 0.5),
        ("no_decay.norm", "norm", ["1.weight"], 0.5),
    ]
    assert sum(len(g["params"]) for g in divided) == len(list(net.parameters()))
    assert [g["name"] for g in given] == ["decay", "no_decay"]


def test_names_are_unique_where_parts_differ():
    net = nn.ModuleDict({"qkv": nn.Linear(4, 12), "mid": nn.Linear(4, 4), "out": nn.Linear(4, 2)})
    divided = by_role(single(net), net)
    assert [g["name"] for g in divided] == ["all.hidden_3", "all.bias", "all.hidden", "all.head"]
    assert divided[0]["split"] == 3
    assert "split" not in divided[2]


FUSED = {
    "qkv": 3, "to_qkv": 3, "Wqkv": 3, "w_qkv": 3, "qkv_proj": 3, "query_key_value": 3,
    "kv": 2, "to_kv": 2, "Wkv": 2, "kv_proj": 2, "gate_up_proj": 2,
}  # fmt: skip


def block_with(name, rows):
    block = nn.Module()
    setattr(block, name, nn.Linear(8, rows))
    block.out = nn.Linear(rows, 3)
    return describe(block)[f"{name}.weight"]


@pytest.mark.parametrize("name", FUSED)
def test_projections_are_fused_by_name_and_shape(name):
    assert block_with(name, 8 * FUSED[name]) == ("hidden", FUSED[name])
    # heads that share keys and values, or a layer that only has such a name
    rows = {8, 8 + 2 * 2, 8 * 5, 31} if name != "gate_up_proj" else {31}
    assert {block_with(name, n) for n in rows} == {("hidden", 1)}


def test_the_parts_of_a_gated_unit_have_any_width():
    assert block_with("gate_up_proj", 2 * 13) == ("hidden", 2)


@pytest.mark.parametrize(
    "name", ["gate_proj", "up_proj", "q_proj", "kv_cache_map", "kvoid", "to_q"]
)
def test_other_names_are_not_fused(name):
    assert {block_with(name, 8 * k) for k in (1, 2, 3)} == {("hidden", 1)}


@pytest.mark.parametrize("size", [3, 4])
def test_the_projection_of_an_lstm_has_no_gates(size):
    net = nn.Sequential(nn.LSTM(8, 8, 2, proj_size=size, bidirectional=True), nn.Linear(8, 3))
    found = {name: split for name, (role, split) in describe(net).items() if role == "hidden"}
    # torch documents weight_ih and weight_hh as the four gates' matrices, weight_hr as one
    assert {name: 1 if "_hr_" in name else 4 for name in found} == found
    assert sum("_hr_" in name for name in found) == 4
