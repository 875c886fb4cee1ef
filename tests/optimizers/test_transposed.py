"""Layers that store their weights as [in, out]: the same updates as those of torch's Linear."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lit_optim.param_groups
from lit_optim import Muon
from lit_optim.errors import UsageError
from lit_optim.param_groups import roles
from tests.optimizers.cases_matrix import MATRIX
from tests.optimizers.running import class_of

#: The longer side of SOAP's first gradient does not determine its basis: only short sides have one.
DETERMINED = {"soap": {"max_precondition_dim": 4}}
CASES = [
    (name, settings | DETERMINED.get(name, {}))
    for name, (_, _, rows) in sorted(MATRIX.items())
    for settings in (rows[0], rows[-1])
]


class Conv1D(nn.Module):
    """GPT-2's, by transformers' name for it; its shape may be square everywhere."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Dense(Conv1D):
    """Any other class: its bias tells where its outputs are."""


class FanIn(nn.Linear):
    """As in low-rank adapters: a Linear whose weight is transposed."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.weight = nn.Parameter(self.weight.detach().T.contiguous())

    def forward(self, x):
        return x @ self.weight + self.bias


class Block(nn.Module):
    def __init__(self, layer, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.c_attn, self.c_proj = layer(width, 3 * width), layer(width, width)
        self.c_fc, self.down = layer(width, 4 * width), layer(4 * width, width)

    def forward(self, x):
        q, k, v = self.c_attn(self.norm(x)).chunk(3, -1)
        x = x + self.c_proj(torch.tanh(q * k) + v)
        return x + self.down(torch.tanh(self.c_fc(x)))


def network(layer, width=4, head=True):
    blocks = [Block(layer, width) for _ in range(2)]
    net = nn.Sequential(nn.Embedding(7, width), *blocks, *[layer(width, 3)] * head).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            is_turned = p.ndim == 2 and p is not net[0].weight and layer is not nn.Linear
            value = torch.randn(p.shape[::-1] if is_turned else p.shape, generator=generator)
            p.copy_(value.T if is_turned else value)
    return net


def fit(net, optimizer, steps=7):
    for step in range(steps):
        x = torch.randint(7, (16,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def assert_equal_networks(net, reference):
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        is_turned = p.ndim == 2 and p is not net[0].weight
        torch.testing.assert_close(p, q.T if is_turned else q, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.parametrize("layer", [Conv1D, Dense, FanIn])
def test_a_net_with_turned_weights_is_updated_as_one_of_linear_layers(name, settings, layer):
    net, reference = network(layer), network(nn.Linear)
    assert_equal_networks(net, reference)
    found, expected = roles(net), roles(reference)
    assert {k: (v.role, v.split) for k, v in found.items()} == {
        k: (v.role, v.split) for k, v in expected.items()
    }
    for one in (net, reference):
        fit(one, class_of(name)(one, **settings))
    start = network(layer)
    assert (net[1].c_attn.weight - start[1].c_attn.weight).abs().max() > 1e-4
    assert_equal_networks(net, reference)


class Squares(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.a, self.b, self.out = layer(4, 4), layer(4, 4), nn.Linear(4, 2)


def test_the_class_decides_where_the_shape_does_not():
    assert roles(Squares(Conv1D))["a.weight"].transposed
    assert not roles(Squares(Dense))["a.weight"].transposed  # nothing tells
    both = nn.ModuleDict({"squares": Squares(Dense), "other": Dense(3, 5)})
    assert roles(both)["squares.a.weight"].transposed
    assert not roles(Squares(nn.Linear))["a.weight"].transposed
    swapped = nn.ModuleDict({"a": nn.Linear(5, 4), "b": nn.Linear(4, 2)})
    assert not any(role.transposed for role in roles(swapped).values())


@pytest.mark.parametrize("name", sorted(MATRIX))
@pytest.mark.parametrize("size", [1, 3])
def test_a_transposed_convolution_is_the_convolution_that_computes_the_same(name, size):
    torch.manual_seed(0)
    turned = nn.ConvTranspose2d(6, 4, size, padding=size // 2, bias=False).double()
    plain = nn.Conv2d(6, 4, size, padding=size // 2, bias=False).double()

    def as_plain(weight):
        return weight.transpose(0, 1).flip(2, 3)

    with torch.no_grad():
        plain.weight.copy_(as_plain(turned.weight))
    first, last = nn.Conv2d(3, 6, 3).double(), nn.Linear(100, 2).double()
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(turned(first(x)), plain(first(x)))
    for middle in (turned, plain):
        net = nn.Sequential(first, middle, nn.Flatten(), last)
        groups = lit_optim.param_groups(net)
        groups = [group for group in groups if group["params"][0] is middle.weight]
        optimizer = class_of(name)(groups, **DETERMINED.get(name, {}))
        for _ in range(5):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(as_plain(turned.weight), plain.weight, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", sorted(MATRIX))
def test_a_rule_says_it_of_what_no_layer_tells(name):
    class Bare(nn.Module):
        def __init__(self, turned):
            super().__init__()
            torch.manual_seed(0)
            w = torch.randn(9, 3, dtype=torch.float64)
            self.turned, self.w = turned, nn.Parameter(w.T.contiguous() if turned else w)
            self.out = nn.Linear(9, 2).double()

        def forward(self, x):
            return self.out(x @ (self.w if self.turned else self.w.T))

    found = []
    for turned in (True, False):
        net, layout = Bare(turned), {"split": 3} | ({"transposed": True} if turned else {})
        groups = lit_optim.param_groups(net, rules=[{"name": "w", **layout}])
        optimizer = class_of(name)(groups)
        x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for _ in range(5):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        saved = optimizer.state_dict()["param_groups"]
        assert next(group for group in saved if group["split"] == 3).items() >= layout.items()
        found.append(net.w.detach().T if turned else net.w.detach())
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"split": 0}, "split must be a whole number >= 1, got 0"),
        ({"split": "qkv"}, "split must be a whole number >= 1, got 'qkv'"),
        ({"transposed": 1}, "transposed must be true or false, got 1"),
        ({"split": 4}, r"split=4 does not divide the 6 outputs of parameter number 0 of"),
        ({"split": 3, "transposed": True}, r"does not divide the 8 .*\[6, 8\] \(transposed\)"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_when_made(layout, message):
    p = nn.Parameter(torch.ones(6, 8))
    with pytest.raises(UsageError, match=message):
        Muon([{"params": [p], "role": "hidden", **layout}])


def test_gpt2_is_the_net_of_linear_layers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=6, add_cross_attention=True,
        bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    nets = [transformers.GPT2LMHeadModel(config).double() for _ in range(2)]
    linear = nets[1]
    linear.load_state_dict(nets[0].state_dict())
    for path, layer in list(linear.named_modules()):
        if type(layer).__name__ == "Conv1D":
            plain = nn.Linear(*layer.weight.shape).double()
            plain.weight.data, plain.bias.data = layer.weight.data.T.contiguous(), layer.bias.data
            linear.set_submodule(path, plain)
    split = {name: role.split for name, role in roles(nets[0]).items() if role.split > 1}
    block = "transformer.h.0"
    assert split == {f"{block}.attn.c_attn.weight": 3, f"{block}.crossattention.c_attn.weight": 2}
    tokens = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(0))
    other = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for net in nets:
        groups = lit_optim.param_groups(
            net, rules=[{"name": "*.crossattention.c_attn.weight", "split": 2}]
        )
        optimizer = Muon(groups, lr=0.1, adjust_lr_fn="spectral")
        for _ in range(4):
            optimizer.zero_grad()
            net(input_ids=tokens, encoder_hidden_states=other, labels=tokens).loss.backward()
            optimizer.step()
    for (name, p), (_, q) in zip(*(net.named_parameters() for net in nets), strict=True):
        is_turned = roles(nets[0])[name].transposed
        torch.testing.assert_close(p, q.T if is_turned else q, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", sorted(MATRIX))
def test_a_state_from_before_goes_on_as_it_was(name):
    """Earlier versions put all hidden matrices in one group, and read none of them transposed."""
    net = network(Dense)
    groups = lit_optim.param_groups(net)
    hidden = [group for group in groups if group["role"] == "hidden"]
    assert len(hidden) == 2  # fused ones, and others
    old = {"name": "decay.hidden", "role": "hidden", "params": [], "param_names": []}
    for group in hidden:
        old["params"] += group["params"]
        old["param_names"] += group["param_names"]
    before = class_of(name)([old, *(group for group in groups if group["role"] != "hidden")])
    fit(net, before, steps=3)
    saved, weights = copy.deepcopy(before.state_dict()), copy.deepcopy(net.state_dict())
    fit(net, before, steps=3)
    resumed = network(Dense)
    resumed.load_state_dict(weights)
    optimizer = class_of(name)(resumed)
    optimizer.load_state_dict(saved)
    fit(resumed, optimizer, steps=3)
    for p, q in zip(resumed.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    again = class_of(name)(network(Dense))
    again.load_state_dict(optimizer.state_dict())
    saved["param_groups"][0]["param_names"][0] = "another.weight"
    with pytest.raises(ValueError, match="different number of parameter groups"):
        class_of(name)(network(Dense)).load_state_dict(saved)
