"""The two sets of weights of schedule-free optimizers, and what moves between them."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import torch_executor
from tests.optimizers import oracles_adaptive as oracles
from tests.optimizers.running import class_of, difference, parameters, run

NAMES = ("schedule_free_adamw", "schedule_free_sgd")
SETTINGS = {"lr": 0.05, "warmup_steps": 5, "weight_decay": 0.1}


def made(name, params, **options):
    return class_of(name)(params, **SETTINGS, **options)


def values(params):
    return [p.detach().clone() for p in params]


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_eval_is_the_average_of_the_paper(betas):
    drawn = torch.randn(31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start, *steps = drawn.tolist()
    hyper = SETTINGS | {"betas": betas}
    p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = class_of("schedule_free_adamw")([p], **hyper)
    both = oracles.both_of_schedule_free_adamw(start, steps, **hyper)
    for g, (y, x) in zip(steps, both, strict=True):
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert p.item() == pytest.approx(y, abs=1e-12)
        optimizer.eval()
        assert p.item() == pytest.approx(x, abs=1e-12)
        optimizer.train()
        assert p.item() == pytest.approx(y, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_average_is_of_where_z_has_been(name):
    """With a constant lr and without a power all weigh alike."""
    params, way = parameters(), []
    optimizer = class_of(name)(params, lr=0.05)
    for step in range(5, 25):
        run(optimizer, params, step, step + 1)
        way.append(optimizer.state[params[2]]["z"].clone())
    optimizer.eval()
    torch.testing.assert_close(params[2].detach(), torch.stack(way).mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_each_mode_may_be_asked_for_twice(name):
    params = parameters()
    optimizer = made(name, params)
    assert optimizer.param_groups[0]["train_mode"] is True
    run(optimizer, params, 0, 7)
    y = values(params)
    optimizer.train()
    assert difference(params, y) == 0
    optimizer.eval()
    x = values(params)
    assert optimizer.param_groups[0]["train_mode"] is False
    assert difference(x, y) > 1e-3
    optimizer.eval()
    assert difference(params, x) == 0
    optimizer.train()
    assert difference(params, y) <= 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_a_look_at_the_average_does_not_change_the_way(name):
    straight, watched = parameters(), parameters()
    run(made(name, straight), straight, 0, 20)
    optimizer = made(name, watched)
    optimizer.eval()  # nothing to average yet
    assert difference(watched, parameters()) == 0
    for step in range(20):
        optimizer.train()
        run(optimizer, watched, step, step + 1)
        optimizer.eval()
    optimizer.train()
    assert difference(straight, watched) <= 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_the_average_is_refused(name):
    params, called = parameters(), []
    optimizer = made(name, params)
    run(optimizer, params, 0, 3)
    optimizer.eval()
    before = values(params)
    with pytest.raises(UsageError, match=r"is in eval mode: call train\(\) before") as error:
        optimizer.step(lambda: called.append(1))
    assert "\n" not in str(error.value)
    assert not called
    assert difference(params, before) == 0
    optimizer.train()
    run(optimizer, params, 3, 4)


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("turned_before", [True, False])
@pytest.mark.parametrize("saved_in_eval", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_either_mode_goes_on(name, saved_in_eval, turned_before, model_first):
    """Whatever mode the optimizer was in before it was loaded, and whichever comes first."""
    straight, resumed = parameters(), parameters(seed=7)
    first = made(name, straight)
    run(first, straight, 0, 12)
    if saved_in_eval:
        first.eval()
    weights, state = values(straight), saved(first)
    second = class_of(name)(resumed)
    run(second, resumed, 0, 3)  # it has a z of its own, which is in nobody's way
    if turned_before:
        second.eval()

    def load_model():
        for p, value in zip(resumed, weights, strict=True):
            p.data.copy_(value)

    def load_optimizer():
        second.load_state_dict(state)

    order = [load_model, load_optimizer]
    for load in order if model_first else reversed(order):
        load()
    assert second.param_groups[0]["train_mode"] is not saved_in_eval
    assert difference(resumed, weights) == 0
    for params, optimizer in [(straight, first), (resumed, second)]:
        optimizer.train()
        run(optimizer, params, 12, 20)
    assert difference(straight, resumed) == 0
    first.eval()
    second.eval()
    assert difference(straight, resumed) == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_in_the_same_mode(name, duplicate):
    params = parameters()
    optimizer = made(name, params)
    run(optimizer, params, 0, 6)
    optimizer.eval()
    twin = duplicate(optimizer)
    assert twin.param_groups[0]["train_mode"] is False
    optimizer.train()
    twin.train()
    assert difference(params, twin.param_groups[0]["params"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_group_that_joins_is_in_the_mode_of_the_others(name):
    params = parameters()
    optimizer = made(name, params[:2])
    run(optimizer, params[:2], 5, 8)
    optimizer.eval()
    optimizer.add_param_group({"params": params[2:]})
    assert optimizer.param_groups[1]["train_mode"] is False
    optimizer.train()
    assert difference(params[2:], parameters()[2:]) == 0
    run(optimizer, params, 8, 10)


@pytest.mark.parametrize("name", NAMES)
def test_halves_are_swapped_together(name):
    """bfloat16 parameters with 16 more bits are as good as float32 ones."""
    low, whole = parameters(torch.bfloat16), parameters(torch.float32)
    for p, q in zip(low, whole, strict=True):
        q.data.copy_(p)
    one, other = made(name, low, master="split"), made(name, whole)
    for step in range(30):
        run(one, low, step, step + 1)
        for p, q in zip(low, whole, strict=True):
            q.grad = None if p.grad is None else p.grad.float()
        other.step()
        for mode in ("eval", "train"):
            getattr(one, mode)()
            getattr(other, mode)()
            for p, q in zip(low, whole, strict=True):
                assert (p.float() - q).abs().max() <= 2**-8 * q.abs().max() + 1e-5
    for p, q in zip(low, whole, strict=True):
        torch.testing.assert_close(one.state[p]["z"], other.state[q]["z"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "master"),
    [
        (torch.float64, "none"),
        (torch.float32, "none"),
        (torch.bfloat16, "none"),
        (torch.bfloat16, "split"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_executors_turn_alike(name, dtype, master, monkeypatch):
    def turned(executor):
        params = parameters(dtype)
        optimizer = made(name, params, executor=executor, master=master)
        run(optimizer, params, 5, 8)
        optimizer.eval()
        averages = values(params)
        optimizer.train()
        return averages + values(params)

    eager = turned("torch")
    monkeypatch.setattr(torch_executor, "step", None)  # to call it would fail
    close = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    for x, y in zip(turned("native"), eager, strict=True):
        torch.testing.assert_close(x, y, rtol=close, atol=close)


def test_the_lr_that_acts_is_told():
    optimizer = made("schedule_free_sgd", parameters())
    group = optimizer.param_groups[0]
    found = [optimizer.effective_lr(group, t) for t in (1, 3, 5, 100)]
    assert found == pytest.approx([0.01, 0.03, 0.05, 0.05])


@pytest.mark.parametrize("name", NAMES)
def test_an_lr_of_0_changes_nothing(name):
    """As the first of many warmups."""
    params = parameters()
    optimizer = class_of(name)(params)
    optimizer.param_groups[0]["lr"] = 0.0
    run(optimizer, params, 5, 7)
    optimizer.eval()
    assert difference(params, parameters()) == 0


def test_no_average_without_a_beta():
    for name, argument in [("schedule_free_adamw", "betas"), ("schedule_free_sgd", "momentum")]:
        value = (0.0, 0.9) if argument == "betas" else 0.0
        with pytest.raises(UsageError, match=rf"{argument} must be .* in \(0, 1\), got"):
            class_of(name)(parameters(), **{argument: value})
