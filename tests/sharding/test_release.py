"""Gradients of sharded parameters are released with the same weights, to the bit."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import lit_optim
from lit_optim import UsageError, release_gradients
from lit_optim.optimizers.base import matrix_step
from lit_optim.sharding import exchange
from tests.optimizers.running import NAMES, class_of
from tests.sampling import sample
from tests.sharding import products
from tests.sharding.layouts import LAYOUTS
from tests.sharding.nets import make_net
from tests.sharding.processes import processes

STEPS = 4
TRAINED = [
    name
    for name in NAMES
    if not class_of(name).needs_all_gradients and getattr(class_of(name), "takes_shards", True)
]
ON_TWO = [name for name in TRAINED if not class_of(name).needs_shapes]
#: Without and with sums over the whole of a tensor, factored, averaged, of torch's own step.
SAMPLE = ("adafactor", "adamw", "lamb", "mars", "schedule_free_adamw", "sgd")
MATRIX_METHODS = [name for name in TRAINED if class_of(name).needs_shapes]
SHARDED = ["fsdp2 of 2", "fsdp2 of 3", "fsdp2 of 4", "hsdp of 2 x 2", "fsdp2 and tp of 2 x 2"]
OPTIONS = {"trust_ratio": True, "clip_update": 0.3, "cautious": True}


def build() -> nn.Sequential:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    sizes = (5, 7, 6, 3)  # 5 and 3 rows are not divisible by 2
    layers = [nn.Sequential(nn.Linear(m, n), nn.Tanh()) for m, n in pairwise(sizes)]
    model = nn.Sequential(*layers, nn.Linear(3, 3))
    model[1][0].weight.requires_grad_(False)
    for layer in layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def train(name: str, released: bool, accumulated: bool = False, **settings: object) -> list[list]:
    model = build()
    optimizer = class_of(name)([p for p in model.parameters() if p.requires_grad], **settings)
    scheduler = lit_optim.schedule(optimizer, lit_optim.schedules.linear(), steps=STEPS)
    if released:
        release_gradients(model, optimizer)
    generator = torch.Generator().manual_seed(1 + torch.distributed.get_rank())
    for _ in range(STEPS):
        optimizer.zero_grad()
        for last in (False, True) if accumulated else (True,):
            model.set_requires_gradient_sync(last)
            model(torch.randn(8, 5, generator=generator)).square().mean().backward()
        assert not released or all(p.grad is None for p in model.parameters())
        optimizer.step()
        scheduler.step()
    return [p.full_tensor().tolist() for p in model.parameters()]


@pytest.mark.parametrize(
    "name", [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in ON_TWO]
)
def test_fsdp2_trains_the_same(name):
    expected = processes(2).run(train, name, False)
    assert processes(2).run(train, name, True) == expected


def test_gradients_that_fsdp2_accumulates_itself():
    expected = processes(2).run(train, "adamw", False, True)
    assert processes(2).run(train, "adamw", True, True) == expected


def train_layout(name: str, released: bool, layout: str, settings: dict[str, object]) -> object:
    """All weights after each update, and how many gradients were left for the last `step`."""
    matrices = getattr(class_of(name), "takes_matrices_only", False)
    net = make_net("net", late=True, tied=True, matrices=matrices)
    trained = LAYOUTS[layout].spread(net)
    if trained is None:
        return None
    with pytest.MonkeyPatch.context() as patch:  # many stacks and rounds, also of small matrices
        patch.setattr(matrix_step, "AT_ONCE", {True: 100, False: 100})
        patch.setattr(exchange, "ROUND", {True: 80, False: 80})
        optimizer = class_of(name)(trained.net, **settings)
        if released:
            release_gradients(trained.net, optimizer)
        weights = []
        for step in range(STEPS):
            optimizer.zero_grad()
            trained.backward(step, 0, 1.0)
            left = sum(p.grad is not None for p in trained.net.parameters())
            optimizer.step()
            weights.append([x.tolist() for x in trained.weights()])
    return weights, left if released else 0


CASES = [
    *((name, layout, {}) for name in MATRIX_METHODS for layout in SHARDED),
    *((name, layout, OPTIONS) for name in ("soap", "muon") for layout in SHARDED),
    *((name, layout, {}) for name in ON_TWO for layout in SHARDED[1:3]),
]


@pytest.mark.parametrize(
    ("name", "layout", "settings"),
    [*sample(CASES[:40], 3, seed=1), *sample(CASES[40:], 2)],
    ids=str,
)
def test_any_sharding_trains_the_same(name, layout, settings):
    """In float64, where no rounding hides the order in which something was added."""
    size = LAYOUTS[layout].size
    expected = processes(size).run(train_layout, name, False, layout, settings)
    assert processes(size).run(train_layout, name, True, layout, settings) == expected
    assert expected[0][0][0] != expected[0][0][-1]  # it trains


def refused(kind: str) -> str:
    from torch.nn.parallel import DistributedDataParallel

    model = nn.Linear(3, 3)
    optimizer = lit_optim.AdamW(model)
    before = [p.detach().clone() for p in model.parameters()]
    if kind == "later":
        release_gradients(model, optimizer)
    wrapped = DistributedDataParallel(model)

    def begin() -> None:
        if kind != "later":
            release_gradients(wrapped, optimizer)
        wrapped(torch.ones(2, 3)).sum().backward()

    with pytest.raises(UsageError) as caught:
        begin()
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(getattr(p, "_local_tensor", p), getattr(q, "_local_tensor", q))
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("before", "DistributedDataParallel averages gradients after they would be released"),
        ("later", "DistributedDataParallel averages gradients after they would be released"),
    ],
)
def test_what_cannot_be_released_is_refused(kind, message):
    for answer in processes(2).run(refused, kind):
        assert answer.startswith(message)
        assert "\n" not in answer


@pytest.mark.parametrize("optimizer", ["lamb", "muon"])
def test_the_command_line(optimizer, tmp_path):
    line = ("trainer=fsdp_cpu", f"optimizer={optimizer}", "callbacks=health",
            "callbacks.health.every=2", "trainer.max_steps=6",
            "trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=0.01")  # fmt: skip
    for released in ("false", "true"):
        more = (*line, f"trainer.gradient_release={released}")
        results = processes(2).run(products.train, str(tmp_path / released), *more)
        assert [one.get("steps") for one in results] == [6, 6], results
    plain, found = (products.saved(tmp_path / released) for released in ("false", "true"))
    for name, value in plain["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value)
    [states], [others] = plain["optimizer_states"], found["optimizer_states"]
    for index, state in states["state"].items():
        torch.testing.assert_close(others["state"][index], state, rtol=0, atol=0)
