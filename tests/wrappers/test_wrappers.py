"""Wrappers, compared with hand-written loops, and around every optimizer."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from lightning.fabric.utilities.optimizer import _optimizer_to_device
from torch import nn

from lit_optim.errors import UsageError
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.lbfgs import LBFGS
from lit_optim.optimizers.momentum import Momentum
from lit_optim.optimizers.schedule_free_sgd import ScheduleFreeSGD
from lit_optim.wrappers import Ema, Lookahead, Sam, unwrap
from tests.optimizers.running import NAMES, difference, gradients, made_by, parameters, run

STEPS = 20
HAND = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}
WRAPPERS = [Ema, Lookahead, Sam]
#: torch's own classes, which want other parameters or a closure of their own.
OTHERS = {"lbfgs", "sparse_adam", "muon_torch"}


def by_hand(params):
    return torch.optim.AdamW(params, **HAND, foreach=False)


def loss_of(params):
    """A curved and coupled loss, so that the gradient depends on the parameters."""
    return (
        sum((p.sin() * (k + 1)).square().sum() for k, p in enumerate(params))
        + sum(p.sum() for p in params).square()
    )


def closure_of(optimizer, params):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_averages_the_trained_weights(warmup):
    ours, theirs = parameters(), parameters()
    optimizer, other = Ema(AdamW(ours, **HAND), decay=0.9, warmup=warmup), by_hand(theirs)
    average = [p.detach().clone() for p in theirs]
    for t in range(1, STEPS + 1):
        run(optimizer, ours, t - 1, t)
        run(other, theirs, t - 1, t)
        d = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        average = [d * e + (1 - d) * p.detach() for e, p in zip(average, theirs, strict=True)]
    assert difference(ours, theirs) < 1e-12
    trained = [p.detach().clone() for p in ours]
    optimizer.eval()
    assert difference(ours, average) < 1e-12
    optimizer.eval()
    with pytest.raises(RuntimeError, match="eval mode"):
        optimizer.step()
    optimizer.train()
    assert all(torch.equal(p, q) for p, q in zip(ours, trained, strict=True))


def test_ema_of_16_bit_parameters_is_float32():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = Ema(AdamW([p], lr=0.5, weight_decay=0.0), decay=0.999, warmup=False)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    trained = p.detach().clone()
    assert optimizer.average[p].dtype == torch.float32
    # p goes from 1 to 0.5, 0 and -0.5, a thousandth of which bfloat16 would not see beside 1
    expected = 0.999 * (0.999 * (0.999 + 0.001 * 0.5) + 0.001 * 0.0) + 0.001 * -0.5
    torch.testing.assert_close(optimizer.average[p], torch.full((3,), expected), atol=2e-5, rtol=0)
    optimizer.eval()
    optimizer.train()
    assert torch.equal(p, trained)


def test_lookahead_interpolates_slow_and_fast_weights():
    ours, theirs = parameters(), parameters()
    optimizer, other = Lookahead(AdamW(ours, **HAND), k=3, alpha=0.4), by_hand(theirs)
    slow = [p.detach().clone() for p in theirs]
    for t in range(1, STEPS + 1):
        run(optimizer, ours, t - 1, t)
        run(other, theirs, t - 1, t)
        if t % 3 == 0:
            slow = [s + 0.4 * (p.detach() - s) for s, p in zip(slow, theirs, strict=True)]
            for p, s in zip(theirs, slow, strict=True):
                p.data.copy_(s)
        assert difference(ours, theirs) < 1e-12


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_steps_by_the_gradient_at_the_worst_point(adaptive):
    ours, theirs = parameters(), parameters()
    optimizer, other = Sam(AdamW(ours, **HAND), rho=0.3, adaptive=adaptive), by_hand(theirs)
    for _ in range(STEPS):
        loss = optimizer.step(closure_of(optimizer, ours))
        before = loss_of(theirs)
        assert loss.item() == pytest.approx(before.item(), rel=1e-12)
        grads = torch.autograd.grad(before, theirs)
        scales = [p.detach().abs() if adaptive else torch.ones_like(p) for p in theirs]
        pairs = list(zip(grads, scales, strict=True))
        norm = sum((g * s).square().sum() for g, s in pairs).sqrt()
        kept = [p.detach().clone() for p in theirs]
        for p, (g, s) in zip(theirs, pairs, strict=True):
            p.data.add_(0.3 * s * s * g / norm)
        for p, g, old in zip(
            theirs, torch.autograd.grad(loss_of(theirs), theirs), kept, strict=True
        ):
            p.data.copy_(old)
            p.grad = g
        other.step()
        assert difference(ours, theirs) < 1e-10


def test_sam_without_a_closure():
    with pytest.raises(UsageError, match=r"call step\(closure\)"):
        Sam(AdamW(parameters())).step()


def stepped(optimizer, params, steps):
    for step in steps:
        gradients(params, step)
        closure = (lambda: torch.zeros(())) if isinstance(optimizer, Sam) else None
        optimizer.step(closure)


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", sorted(set(NAMES) - OTHERS))
def test_every_wrapper_wraps_every_optimizer_and_resumes(name, wrap):
    make, params = made_by(name), parameters()
    if name.startswith("schedule_free") and wrap is not Sam:
        with pytest.raises(UsageError, match="averages its weights"):
            wrap(make(params))
        return
    whole = wrap(make(params))
    stepped(whole, params, range(8))
    parts = parameters()
    first = wrap(make(parts))
    stepped(first, parts, range(4))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = wrap(make(parts))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.param_groups is unwrap(second).param_groups
    assert list(second.state) == list(unwrap(second).state)
    stepped(second, parts, range(4, 8))
    assert all(torch.equal(p, q) for p, q in zip(params, parts, strict=True))


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_continue_in_the_same_way(wrap, twin):
    params = parameters()
    optimizer = wrap(AdamW(params, **HAND))
    stepped(optimizer, params, range(4))
    others, other = twin((params, optimizer))
    stepped(optimizer, params, range(4, 8))
    stepped(other, others, range(4, 8))
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
    stepped(optimizer, params, range(3))
    assert optimizer.owner(optimizer.param_groups[0]) is optimizer.base


def test_wrappers_can_be_nested():
    ours = parameters()
    optimizer = Ema(Lookahead(AdamW(ours, **HAND), k=2), decay=0.5, warmup=False)
    run(optimizer, ours, 0, 4)
    other = Ema(Lookahead(AdamW(ours, **HAND), k=2), decay=0.5, warmup=False)
    other.load_state_dict(optimizer.state_dict())
    assert other.base.updates == 4
    assert unwrap(other) is other.base.base


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda p: Ema(ScheduleFreeSGD(p, lr=1.0)), "Ema cannot wrap ScheduleFreeSGD, which"),
        (lambda p: Lookahead(Ema(AdamW(p))), "Lookahead cannot wrap Ema, which averages"),
        (lambda p: Sam(LBFGS(p)), "Sam cannot wrap LBFGS: both evaluate the loss again"),
        (lambda p: Ema(AdamW(p), decay=1.0), "decay must be a number in [0, 1), got 1.0"),
        (lambda p: Lookahead(AdamW(p), k=0), "k must be a whole number > 0, got 0"),
        (lambda p: Sam(AdamW(p), rho=-1), "rho must be a number > 0, got -1"),
        (
            lambda p: Ema(AdamW(p)).load_state_dict(AdamW(p).state_dict()),
            "the saved state comes from an optimizer without the wrapper Ema",
        ),
    ],
    ids=["averages", "wrapped", "closure", "decay", "k", "rho", "state"],
)
def test_mistakes(make, line):
    with pytest.raises(UsageError) as refused:
        make(parameters())
    assert line in str(refused.value)


def test_late_gradients_and_new_groups():
    """The second parameter gets its first gradient late; the groups differ in lr."""
    ours, theirs = parameters(), parameters()

    def grouped(params):
        return [{"params": params[:2], "lr": 0.3}, {"params": params[2:], "lr": 0.01}]

    optimizer = Lookahead(Momentum(grouped(ours), lr=0.1), k=4)
    other = torch.optim.SGD(grouped(theirs), lr=0.1, momentum=0.9, foreach=False)
    slow = [p.detach().clone() for p in theirs]
    for t in range(1, 13):
        run(optimizer, ours, t - 1, t)
        run(other, theirs, t - 1, t)
        if t % 4 == 0:
            for s, p in zip(slow, theirs, strict=True):
                s.lerp_(p.detach(), 0.5)
                p.data.copy_(s)
    assert difference(ours, theirs) < 1e-12


@pytest.mark.parametrize("ks", [(2,), (2, 3), (3, 3, 2)])
def test_nested_wrappers_of_one_class_are_saved_separately(ks):
    """Nested Lookaheads continue exactly after loading; a single one keeps its key."""

    def made(params):
        optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
        for k in ks:
            optimizer = Lookahead(optimizer, k=k)
        return optimizer

    whole, parts = parameters(), parameters()
    straight, first, second = made(whole), made(parts), made(parts)
    stepped(straight, whole, range(10))
    stepped(first, parts, range(5))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    stepped(second, parts, range(5, 10))
    assert difference(whole, parts) == 0
    assert "Lookahead.slow" in first.state_dict()["state"][0]


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
    stepped(optimizer, params, range(3))
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
        return {key: value for key, value in state.items() if key != "more"}

    optimizer.register_load_state_dict_pre_hook(without_more)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(("load_post", o)))
    stepped(optimizer, params, range(1))
    saved = optimizer.state_dict()
    assert saved["more"] == 1
    optimizer.load_state_dict(saved)
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


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.nn.Linear(2, 2), "Linear"),
        (torch.nn.Linear(2, 2).parameters(), "generator"),
        (AdamW, "AdamW"),
        ("adamw", "adamw"),
        (None, "None"),
    ],
    ids=["model", "parameters", "class", "name", "None"],
)
def test_what_is_no_optimizer_is_refused_in_one_line(wrap, given, words):
    with pytest.raises(UsageError) as refused:
        wrap(given)
    line = str(refused.value)
    assert f"{wrap.__name__} wraps an optimizer, as in {wrap.__name__}(AdamW(model)), got" in line
    assert words in line.split("got")[1]
    assert "\n" not in line


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
