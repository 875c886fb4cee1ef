"""Layer-wise lr decay."""

from __future__ import annotations

from functools import partial

import pytest
from torch import nn

from lit_optim.param_groups import layer_decay
from lit_optim.param_groups.layers import depths_of
from lit_optim.schedules.library import constant, cosine_warmup, linear, wsd
from lit_optim.tasks.char_lm import GPT
from lit_optim.tasks.classifiers import CNN, MLP
from tests.lightning.modules import Data, Plain, attach, trainer


def by_depth(module):
    found = {}
    for name, depth in depths_of(module).items():
        found.setdefault(depth, set()).add(name.rpartition(".")[0])
    return [found[depth] for depth in sorted(found)]


def test_blocks_are_layers_and_their_parts_are_not():
    stem, *blocks, last = by_depth(GPT(vocab_size=65, block=16))
    assert stem == {"token", "position"}
    assert last == {"norm"}
    assert len(blocks) == 4
    for k, block in enumerate(blocks):
        assert all(name.startswith(f"layers.{k}.") for name in block)


def test_plain_networks():
    assert by_depth(MLP(features=40, classes=10)) == [{"first"}, {"second"}, {"out"}]
    assert by_depth(CNN(features=40, classes=10)) == [{"conv.0"}, {"conv.2"}, {"conv.4"}, {"out"}]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))


def test_blocks_of_stages_are_layers():
    net = nn.Module()
    net.stem = nn.Conv2d(3, 4, 3)
    net.layer1 = nn.Sequential(Block(), Block())
    net.layer2 = nn.Sequential(Block(), Block(), Block())
    net.fc = nn.Linear(4, 2)
    depths = depths_of(net)
    assert depths["stem.weight"] == 0
    assert [depths[f"layer1.{k}.body.2.bias"] for k in range(2)] == [1, 2]
    assert [depths[f"layer2.{k}.body.0.weight"] for k in range(3)] == [3, 4, 5]
    assert depths["fc.bias"] == 6


def test_transformers_models():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
    )
    stem, *blocks, last = by_depth(transformers.ViTForImageClassification(config))
    assert all(name.startswith("vit.embeddings") for name in stem)
    assert len(blocks) == 3
    assert last == {"vit.layernorm", "classifier"}


def test_the_lr_decays_from_layer_to_layer():
    groups = layer_decay(GPT(vocab_size=65, block=16), decay=0.5)
    assert [(g["name"], g["lr_mult"], g.get("weight_decay")) for g in groups] == [
        ("layer_00.decay", 0.5**5, None),
        ("layer_01.decay", 0.5**4, None),
        ("layer_01.no_decay", 0.5**4, 0.0),
        ("layer_02.decay", 0.5**3, None),
        ("layer_02.no_decay", 0.5**3, 0.0),
        ("layer_03.decay", 0.5**2, None),
        ("layer_03.no_decay", 0.5**2, 0.0),
        ("layer_04.decay", 0.5, None),
        ("layer_04.no_decay", 0.5, 0.0),
        ("layer_05.no_decay", 1.0, 0.0),
    ]


@pytest.mark.parametrize(
    "schedule", [constant(), cosine_warmup(), linear(), wsd()], ids=lambda s: str(s.phases[-1].end)
)
def test_it_works_with_every_schedule(schedule, tmp_path):
    module = Plain()
    attach(module, None, schedule, partial(layer_decay, decay=0.5))
    trainer(tmp_path, max_steps=10).fit(module, Data())
    groups = module.trainer.optimizers[0].param_groups
    depth = [int(g["name"][6:8]) for g in groups]
    assert len(set(depth)) == 3
    for lrs in module.lrs:
        shares = [0.5 ** (max(depth) - d) for d in depth]
        assert lrs == pytest.approx([share * max(lrs) for share in shares])
