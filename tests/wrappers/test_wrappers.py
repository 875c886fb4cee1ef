"""Wrappers, compared with hand-written loops, and around every optimizer."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.lbfgs import LBFGS
from lit_optim.optimizers.momentum import Momentum
from lit_optim.optimizers.schedule_free_sgd import ScheduleFreeSGD
from lit_optim.wrappers import Ema, Lookahead, Sam, unwrap
from tests.optimizers.running import NAMES, difference, made_by, parameters, run
from tests.wrappers.stepping import HAND, WRAPPERS, take_steps

STEPS = 20
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


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", sorted(set(NAMES) - OTHERS))
def test_every_wrapper_wraps_every_optimizer_and_resumes(name, wrap):
    make, params = made_by(name), parameters()
    if name.startswith("schedule_free") and wrap is not Sam:
        with pytest.raises(UsageError, match="averages its weights"):
            wrap(make(params))
        return
    whole = wrap(make(params))
    take_steps(whole, params, range(8))
    parts = parameters()
    first = wrap(make(parts))
    take_steps(first, parts, range(4))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = wrap(make(parts))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.param_groups is unwrap(second).param_groups
    assert list(second.state) == list(unwrap(second).state)
    take_steps(second, parts, range(4, 8))
    assert all(torch.equal(p, q) for p, q in zip(params, parts, strict=True))


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
    take_steps(straight, whole, range(10))
    take_steps(first, parts, range(5))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(second, parts, range(5, 10))
    assert difference(whole, parts) == 0
    assert "Lookahead.slow" in first.state_dict()["state"][0]


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
