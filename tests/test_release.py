"""Released gradients train the same weights, to the bit."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import partial

import pytest
import torch
from torch import nn

import lit_optim
from lit_optim import AdamW, Ema, Lookahead, release_gradients
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.release import Release
from tests.optimizers.running import class_of, made_by
from tests.releasing import RELEASED, Net
from tests.sampling import sample

STEPS = 6


def train(make, released, closure=False, dtype=torch.float32, matrices_only=False, **settings):
    """The weights after every update, and the states after the last."""
    model = Net(matrices_only).to(dtype)
    optimizer = make(list(model.parameters()), **settings)
    scheduler = lit_optim.schedule(optimizer, lit_optim.schedules.linear_warmup(), steps=STEPS)
    if released:
        release_gradients(model, optimizer)
    generator, weights = torch.Generator().manual_seed(1), []
    for step in range(STEPS):
        x = torch.randn(7, 5, generator=generator).to(dtype)

        def backward(x=x, step=step):
            optimizer.zero_grad()
            loss = model(x, step).square().mean()
            loss.backward()
            if released and not isinstance(optimizer, Matrixwise):  # whose stacks may wait
                assert all(p.grad is None for p in model.parameters())
            return loss

        optimizer.step(backward) if closure else (backward(), optimizer.step())
        scheduler.step()
        assert not released or all(p.grad is None for p in model.parameters())
        weights.append([p.detach().clone() for p in model.parameters()])
    return weights, optimizer.state_dict(), scheduler.last_epoch


def assert_same(found, expected):
    weights, state, updates = found
    assert updates == expected[2] == STEPS
    for step, (ours, theirs) in enumerate(zip(weights, expected[0], strict=True)):
        for k, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            assert torch.equal(p, q), (step, k)
    assert state["state"].keys() == expected[1]["state"].keys()
    for index, values in expected[1]["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(state["state"][index][name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "closure"),
    [*((name, False) for name in RELEASED), *sample([(name, True) for name in RELEASED], 9)],
)
@pytest.mark.sampled(20)
def test_the_weights_are_the_same(name, closure):
    settings = {"matrices_only": getattr(class_of(name), "takes_matrices_only", False)}
    plain = train(made_by(name), False, closure, **settings)
    assert_same(train(made_by(name), True, closure, **settings), plain)
    assert not torch.equal(plain[0][0][0], plain[0][-1][0])  # it trains


@pytest.mark.parametrize(
    "settings",
    [
        {"master": "split", "state_dtype": "int8"},
        {"state_dtype": "bfloat16"},
        {"cautious": True, "clip_update": 1.0, "trust_ratio": True},
        {"executor": "torch"},
        {"executor": "torch", "state_dtype": "int8", "master": "split"},
    ],
)
def test_options_and_precisions(settings):
    dtype = torch.bfloat16 if "master" in settings else torch.float32
    make = made_by("adamw")
    plain = train(make, False, dtype=dtype, **settings)
    assert_same(train(make, True, dtype=dtype, **settings), plain)


@pytest.mark.parametrize("wrap", [Ema, partial(Lookahead, k=2, alpha=0.3)])
def test_wrappers_that_average_after_the_update(wrap):
    def make(params):
        return wrap(AdamW(params, lr=0.1))

    plain, found = train(make, False), train(make, True)
    assert_same(found, plain)
    name = type(make([nn.Parameter(torch.ones(1))])).__name__
    assert any(key.startswith(f"{name}.") for key in plain[1]["state"][0])


def test_a_schedule_that_nobody_steps_catches_up_before_the_update():
    def weights(released):
        model = Net()
        optimizer = AdamW(model.parameters(), lr=0.1)
        schedule = lit_optim.schedule(optimizer, lit_optim.schedules.linear(), steps=STEPS)
        if released:
            release_gradients(model, optimizer)
        for step in range(STEPS):
            model(torch.ones(2, 5), step).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert schedule.last_epoch == STEPS - 1  # it catches up when the next update begins
        return [p.detach() for p in model.parameters()]

    for p, q in zip(weights(True), weights(False), strict=True):
        assert torch.equal(p, q)


def test_a_stack_of_matrices_waits_for_its_last_gradient():
    model = Net()
    optimizer = lit_optim.Muon(model)
    release_gradients(model, optimizer)
    square = [layer.weight for layer in (*model.layers, model.late)]
    for step in range(4):
        model(torch.ones(2, 5), step).sum().backward()
        left = [p for p in model.parameters() if p.grad is not None]
        # those of an update in which one of them has no gradient are left to `step`
        assert all(any(p is q for q in square[:-1]) for p in left)
        assert len(left) == (0 if step % 3 else 4)
        optimizer.step()
        assert all(p.grad is None for p in model.parameters())


def test_clipping_by_value():
    def weights(released):
        model = Net()
        optimizer = lit_optim.SGD(model.parameters(), lr=0.1)
        if released:
            release_gradients(model, optimizer, clip_value=1e-3)
        for step in range(3):
            model(torch.ones(2, 5), step).sum().backward()
            if not released:
                nn.utils.clip_grad_value_(model.parameters(), 1e-3)
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in model.parameters()]

    for p, q in zip(weights(True), weights(False), strict=True):
        assert torch.equal(p, q)


def test_parameters_that_are_trained_later():
    model = Net()
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad])
    release_gradients(model, optimizer)
    model.frozen.requires_grad_(True)
    optimizer.add_param_group({"params": list(model.frozen.parameters())})
    for step in range(2):
        before = model.frozen.weight.detach().clone()
        model(torch.ones(2, 5), step).sum().backward()
        released = model.frozen.weight.grad is None
        assert released == (step > 0)
        optimizer.step()
        optimizer.zero_grad()
        assert not torch.equal(model.frozen.weight, before)


def test_a_loaded_state_goes_on():
    model = Net()
    optimizer = AdamW(model.parameters(), lr=0.1)
    release_gradients(model, optimizer)
    model(torch.ones(2, 5), 0).sum().backward()
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.0
    optimizer.load_state_dict(saved)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(2, 5), 0).sum().backward()
    optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))
    assert optimizer.state[model.head.weight]["step"] == 2


def test_removed_it_steps_as_before_and_nothing_is_kept_alive():
    model = Net()
    optimizer = AdamW(model.parameters())
    release = release_gradients(model, optimizer)
    assert isinstance(release, Release)
    release_gradients(model, optimizer).remove()  # replaces the first
    before = model.head.weight.detach().clone()
    model(torch.ones(2, 5), 0).sum().backward()
    assert model.head.weight.grad is not None
    assert torch.equal(model.head.weight, before)
    optimizer.zero_grad()
    release_gradients(model, optimizer)
    gone = weakref.ref(optimizer)
    del optimizer, release
    gc.collect()
    assert gone() is None
    model(torch.ones(2, 5), 0).sum().backward()  # its hooks do nothing
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("added", [False, True])
def test_a_loop_without_zero_grad(added):
    def weights(released):
        model = Net()
        frozen = set(model.frozen.parameters())
        optimizer = lit_optim.SGD([p for p in model.parameters() if p not in frozen], lr=0.1)
        if not added:
            optimizer.add_param_group({"params": list(model.frozen.parameters())})
        if released:
            release_gradients(model, optimizer)
        for step in range(4):
            if step == 2:
                model.frozen.requires_grad_(True)
                if added:
                    optimizer.add_param_group({"params": list(model.frozen.parameters())})
            model(torch.ones(2, 5), step).sum().backward()
            optimizer.step()
            if not released:
                optimizer.zero_grad()
        return [p.detach() for p in model.parameters()]

    for p, q in zip(weights(True), weights(False), strict=True):
        assert torch.equal(p, q)


def test_a_failed_backward_pass_is_ended_by_a_step():
    model = Net()
    optimizer = AdamW(model)
    release_gradients(model, optimizer)

    def fail(gradient):
        raise MemoryError

    for failed in (True, False, False):
        handle = model.layers[0].weight.register_hook(fail) if failed else None
        loss = model(torch.ones(2, 5), 1).sum()
        if handle is not None:
            with pytest.raises(MemoryError):
                loss.backward()
            handle.remove()
        else:
            loss.backward()
        optimizer.step()
        assert all(p.grad is None for p in model.parameters())
    assert optimizer.state[model.head.weight]["step"] == 3
