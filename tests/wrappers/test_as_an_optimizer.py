"""A wrapper is an optimizer to whoever has it: states, groups, hooks, copies, loss scalers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from lightning.fabric.utilities.optimizer import _optimizer_to_device
from torch import nn

from lit_optim.errors import UsageError
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.momentum import Momentum
from lit_optim.wrappers import Ema, Lookahead, Sam, unwrap
from tests.optimizers.running import difference, gradients, parameters
from tests.wrappers.stepping import HAND, WRAPPERS, take_steps


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_continue_in_the_same_way(wrap, twin):
    params = parameters()
    optimizer = wrap(AdamW(params, **HAND))
    take_steps(optimizer, params, range(4))
    others, other = twin((params, optimizer))
    take_steps(optimizer, params, range(4, 8))
    take_steps(other, others, range(4, 8))
    assert difference(params, others) == 0
    assert other.param_groups is other.base.param_groups


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_schedules_and_new_groups_reach_the_base_optimizer(wrap):
    params, more = parameters(), parameters(seed=3)
    optimizer = wrap(AdamW(params, **HAND))
    optimizer.add_param_group({"params": more, "lr": 0.7})
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    assert [g["lr"] for g in optimizer.base.param_groups] == [0.025, 0.35]
    take_steps(optimizer, params, range(3))
    assert optimizer.owner(optimizer.param_groups[0]) is optimizer.base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_states_of_earlier_versions_are_loaded(dtype):
    """There the wrapper's own state was beside the base's, by the number of the parameter."""
    params = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for _ in "12"]
    first = Ema(AdamW([{"params": params[:1]}, {"params": params[1:]}]), decay=0.5)
    for p in params:
        p.grad = torch.ones_like(p)
    first.step()
    first.eval()
    old = first.base.state_dict()
    old["Ema"] = {
        "updates": 1,
        "train_mode": False,
        "average": dict(enumerate(first.average.values())),
        "trained": dict(enumerate(first.trained.values())),
    }
    second = Ema(AdamW([{"params": params[:1]}, {"params": params[1:]}]), decay=0.5)
    second.load_state_dict(copy.deepcopy(old))
    assert (second.updates, second.train_mode) == (1, False)
    now, before = second.state_dict()["state"], first.state_dict()["state"]
    for k in range(2):
        assert now[k].keys() == before[k].keys()
        assert all(
            torch.equal(torch.as_tensor(x), torch.as_tensor(now[k][n]))
            for n, x in before[k].items()
        )
    if dtype == torch.bfloat16:
        old["Ema"]["trained"] = {}
        with pytest.raises(UsageError, match="call train"):
            second.load_state_dict(old)


def test_the_states_of_a_wrapper_are_shown_beside_those_of_its_base():
    params = parameters()
    optimizer = Ema(Lookahead(AdamW(params, **HAND)))
    assert not optimizer.state
    take_steps(optimizer, params, range(3))
    p = params[0]
    shown = optimizer.state[p]
    assert {"exp_avg", "Lookahead.slow", "Ema.average", "Ema.updates"} <= set(shown)
    assert shown["Ema.average"] is optimizer.average[p]
    shown["exp_avg"].zero_()
    assert not unwrap(optimizer).state[p]["exp_avg"].any()
    average = shown["Ema.average"].clone()
    optimizer.state[p] = {n: x.clone() if torch.is_tensor(x) else x for n, x in shown.items()}
    assert torch.equal(optimizer.average[p], average)
    assert unwrap(optimizer).state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_hooks_of_a_wrapper_are_called(wrap):
    """As torch's optimizers call them; those of the base see the base."""
    params = parameters()
    optimizer, calls = wrap(AdamW(params, **HAND)), []
    for kind in ("step_pre", "step_post"):
        getattr(optimizer, f"register_{kind}_hook")(
            lambda o, *_, kind=kind: calls.append((kind, o))
        )
    optimizer.register_state_dict_pre_hook(lambda o: calls.append(("state_pre", o)))
    optimizer.register_state_dict_post_hook(lambda o, state: state | {"more": 1})
    optimizer.base.register_state_dict_post_hook(lambda o, state: calls.append(("base", o)))

    def without_more(o, state):
        calls.append(("load_pre", o))
        del state["more"]  # of a copy, as torch makes one

    optimizer.register_load_state_dict_pre_hook(without_more)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(("load_post", o)))
    take_steps(optimizer, params, range(1))
    saved = optimizer.state_dict()
    assert saved["more"] == 1
    optimizer.load_state_dict(saved)
    assert saved["more"] == 1
    expected = ["step_pre", "step_post", "state_pre", "base", "load_pre", "load_post"]
    assert [kind for kind, _ in calls] == expected
    assert all(o is (optimizer.base if kind == "base" else optimizer) for kind, o in calls)


@pytest.mark.parametrize("wrap", [Ema, Lookahead, lambda base: Ema(Lookahead(base, k=2))])
@pytest.mark.parametrize("make", [AdamW, Momentum, torch.optim.AdamW])
def test_a_loss_scaler_does_not_see_the_wrapper(wrap, make):
    """Scaled gradients, among them an overflow, give the updates that unscaled ones give."""
    ours, theirs = parameters(), parameters()
    optimizer, other = wrap(make(ours, lr=0.1)), wrap(make(theirs, lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    for t in range(6):
        gradients(ours, t)
        overflow = t == 3
        for p in ours:
            if p.grad is not None:
                p.grad *= float("inf") if overflow else float(scaler.get_scale())
        scaler.scale(torch.zeros(()))  # as the loop scales its loss
        scaler.step(optimizer)
        scaler.update()
        if not overflow:
            gradients(theirs, t)
            other.step()
    assert scaler.get_scale() == 2.0
    assert difference(ours, theirs) < 1e-12
    assert optimizer.updates == other.updates == 5


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_the_groups_of_a_wrapper_are_those_of_its_base(wrap):
    """Whichever of the two is given others, by a client or by loading a state."""
    optimizer = wrap(AdamW(parameters(), **HAND))
    optimizer.param_groups = [dict(group, lr=0.5) for group in optimizer.param_groups]
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.5]
    optimizer.base.load_state_dict(optimizer.base.state_dict())
    assert optimizer.param_groups is optimizer.base.param_groups
    assert list(optimizer.state) == list(optimizer.base.state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wraps", [[Ema], [Lookahead], [Lookahead, Ema], [Sam, Ema]])
def test_what_lightning_moves_to_a_device_stays_the_wrappers(wraps, dtype):
    """It writes into the state of each parameter after a resume; nothing may be kept twice."""
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = AdamW([p], lr=0.1)
    for wrap in wraps:
        optimizer = wrap(optimizer)
    p.grad = torch.ones_like(p)
    optimizer.step(lambda: p.square().sum())
    for switch in ("eval", "train"):
        getattr(optimizer, switch, lambda: None)()
        before = optimizer.state_dict()
        _optimizer_to_device(optimizer, torch.device("cpu"))
        after = optimizer.state_dict()
        assert after["state"][0].keys() == before["state"][0].keys()
        assert not any("." in name for name in unwrap(optimizer).state[p])
