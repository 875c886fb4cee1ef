"""Our schedules in torch's containers, with torch's attributes and warnings."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from lit_optim import AdamW
from lit_optim.compat import torch_schedules as ours
from lit_optim.errors import UsageError
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine, inverse_sqrt, linear, wsd

STEPS = 25
HORIZON = Horizon(STEPS)


def optimizer_of(make=torch.optim.SGD, lr=0.1, as_tensor=False):
    params = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))]
    groups = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.5}]
    if as_tensor:
        lr, groups[1]["lr"] = torch.tensor(lr, dtype=torch.float64), torch.tensor(0.5).double()
    return make(groups, lr=lr)


def run(scheduler, optimizer, steps=STEPS, changed=False):
    seen = []
    for _ in range(steps):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        if not changed:  # by someone else
            assert [float(lr) for lr in scheduler.get_last_lr()] == pytest.approx(seen[-1])
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        optimizer.step()
        scheduler.step()
    return seen


def constant(o):
    return ConstantLR(o, factor=0.5, total_iters=5)


def ours_of(schedule):
    return lambda o: ScheduledLR(o, schedule.curve(HORIZON))


#: torch's scheduler, and what of ours gives the same alone.
PAIRS = {
    "linear": (lambda o: LinearLR(o, 0.2, 1.0, 9), ours.LinearLR(0.2, 1.0, 9)),
    "exponential": (lambda o: ExponentialLR(o, 0.9), ours.ExponentialLR(0.9)),
    "step": (lambda o: StepLR(o, 4, 0.5), ours.StepLR(4, 0.5)),
    "polynomial": (lambda o: PolynomialLR(o, 30, 2.0), ours.PolynomialLR(30, 2.0)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("place", range(3))
def test_in_a_sequence(name, place):
    """At any place in torch's SequentialLR."""
    theirs, schedule = PAIRS[name]
    results = []
    for one in (theirs, ours_of(schedule)):
        optimizer = optimizer_of()
        makers = [constant, lambda o: ExponentialLR(o, 0.8), constant]
        makers[place] = one
        parts = [make(optimizer) for make in makers]
        results.append(run(SequentialLR(optimizer, parts, [6, 15]), optimizer))
    for expected, found in zip(*results, strict=True):
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("place", range(3))
def test_in_a_chain(name, place):
    theirs, schedule = PAIRS[name]
    results = []
    for one in (theirs, ours_of(schedule)):
        optimizer = optimizer_of()
        makers = [constant, lambda o: ExponentialLR(o, 0.8)]
        makers.insert(place, one)
        results.append(run(ChainedScheduler([make(optimizer) for make in makers]), optimizer))
    for expected, found in zip(*results, strict=True):
        assert found == pytest.approx(expected, rel=1e-12)


def test_only_our_schedules_in_both_containers():
    pair = [ours.ExponentialLR(0.9), ours.StepLR(4, 0.5)]
    optimizer = optimizer_of()
    chain = ChainedScheduler([ours_of(schedule)(optimizer) for schedule in pair])
    for t, (lr, _) in enumerate(run(chain, optimizer)):
        assert lr == pytest.approx(0.1 * 0.9**t * 0.5 ** (t // 4), rel=1e-12)
    optimizer = optimizer_of()
    parts = [ours_of(schedule)(optimizer) for schedule in pair]
    for t, (_, lr) in enumerate(run(SequentialLR(optimizer, parts, [7]), optimizer)):
        assert lr == pytest.approx(0.5 * (0.9**t if t < 7 else 0.5 ** ((t - 7) // 4)), rel=1e-12)


def test_a_saved_chain_resumes():
    def chain(o):
        return ChainedScheduler([ours_of(cosine())(o), ExponentialLR(o, 0.8)])

    straight = optimizer_of()
    expected = run(chain(straight), straight)
    for optimizer_first in (True, False):
        first = optimizer_of()
        scheduler = chain(first)
        run(scheduler, first, 10)
        second = optimizer_of()
        again = chain(second)
        loads = [
            lambda: second.load_state_dict(first.state_dict()),  # noqa: B023
            lambda: again.load_state_dict(scheduler.state_dict()),  # noqa: B023
        ]
        for load in loads if optimizer_first else loads[::-1]:
            load()
        for found, one in zip(run(again, second, STEPS - 10), expected[10:], strict=True):
            assert found == pytest.approx(one, rel=1e-12)


def test_a_second_schedule_of_an_optimizer_starts_from_its_base_lr():
    """The final lr of the first schedule is not a factor of the second."""
    optimizer = optimizer_of()
    first = run(ours_of(linear(min_lr_ratio=0.1))(optimizer), optimizer)
    assert run(ours_of(linear(min_lr_ratio=0.1))(optimizer), optimizer) == first


def test_a_changed_lr_is_kept_as_a_factor():
    """As in torch's schedulers."""
    optimizer = optimizer_of()
    curve = linear().curve(HORIZON)
    scheduler = ScheduledLR(optimizer, curve)
    run(scheduler, optimizer, 5)
    optimizer.param_groups[1]["lr"] *= 0.25
    for t, (one, other) in enumerate(run(scheduler, optimizer, 10, changed=True), start=5):
        assert (one, other) == pytest.approx((curve(t, 0.1), 0.25 * curve(t, 0.5)), rel=1e-12)


@pytest.mark.parametrize("epoch", [0, 3, 24, 40])
def test_step_with_an_epoch(epoch):
    theirs, mine = optimizer_of(), optimizer_of()
    pairs = [
        (StepLR(theirs, 4, 0.5), theirs),
        (ours_of(ours.StepLR(4, 0.5))(mine), mine),
    ]
    found = []
    for scheduler, optimizer in pairs:
        run(scheduler, optimizer, 2)
        with pytest.warns(UserWarning, match="epoch parameter"):
            scheduler.step(epoch)
        assert scheduler.last_epoch == epoch
        found.append(run(scheduler, optimizer, 6))
    bounded = [t for t in range(6) if epoch + t < STEPS]  # where ours ends
    for t in bounded:
        assert found[1][t] == pytest.approx(found[0][t], rel=1e-12)


@pytest.mark.parametrize("epoch", [-1, 1.5, True, "3"])
def test_step_with_an_invalid_epoch(epoch):
    optimizer = optimizer_of()
    scheduler = ours_of(linear())(optimizer)
    with (
        pytest.warns(UserWarning, match="epoch parameter"),
        pytest.raises(UsageError, match="epoch must be a whole number"),
    ):
        scheduler.step(epoch)


def test_get_lr_equals_torchs():
    """Also its types: a tensor for a tensor."""
    for as_tensor in (False, True):
        theirs, mine = optimizer_of(as_tensor=as_tensor), optimizer_of(as_tensor=as_tensor)
        pairs = [(LambdaLR(theirs, lambda t: 0.9**t), theirs)]
        pairs += [(ours_of(ours.ExponentialLR(0.9))(mine), mine)]
        for scheduler, optimizer in pairs:
            run(scheduler, optimizer, 4)
        for method in ("get_lr", "get_last_lr"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                one, other = (getattr(scheduler, method)() for scheduler, _ in pairs)
            assert [float(lr) for lr in one] == pytest.approx([float(lr) for lr in other])
            assert [type(lr) for lr in one] == [type(lr) for lr in other]
        assert pairs[0][0].base_lrs == pairs[1][0].base_lrs
        assert pairs[0][0].last_epoch == pairs[1][0].last_epoch == 4


def test_a_tensor_lr_is_set_in_place():
    optimizer = optimizer_of(as_tensor=True)
    held = [group["lr"] for group in optimizer.param_groups]
    scheduler = ours_of(linear())(optimizer)
    last = scheduler.get_last_lr()
    run(scheduler, optimizer, 5)
    assert all(a is b["lr"] for a, b in zip(held, optimizer.param_groups, strict=True))
    assert held[0].item() == pytest.approx(linear().curve(HORIZON)(5, 0.1))
    assert optimizer.param_groups[0]["initial_lr"].item() == pytest.approx(0.1)
    assert last[0].item() == pytest.approx(linear().curve(HORIZON)(0, 0.1))  # a copy


@pytest.mark.parametrize("make", [torch.optim.SGD, AdamW])
def test_step_before_the_optimizer_warns(make):
    optimizer = optimizer_of(make)
    scheduler = ours_of(linear())(optimizer)
    before = optimizer.param_groups[0]["lr"]
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before"):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == before


def test_a_replaced_step_warns():
    optimizer = optimizer_of()
    scheduler = ours_of(linear())(optimizer)
    optimizer.step = lambda: None
    optimizer.step()
    with pytest.warns(UserWarning, match="has been overridden"):
        scheduler.step()


def test_updates_without_gradients_warn():
    """Such as in a loop that forgets `backward`."""
    optimizer = optimizer_of()
    scheduler = ours_of(linear())(optimizer)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(9):
            optimizer.step()
            scheduler.step()
    assert ["no parameter had a gradient" in str(one.message) for one in told] == [True]


def test_the_right_order_does_not_warn():
    optimizer = optimizer_of()
    scheduler = ours_of(linear())(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(scheduler, optimizer)


#: Whether the first half of a run is another one when the run is twice as long.
LENGTHS = [
    (inverse_sqrt(warmup=4), False),
    (inverse_sqrt(warmup="10%"), True),
    (inverse_sqrt(warmup=4, timescale="5%"), True),
    (ours.StepLR(5), False),
    (ours.StepLR("10%"), True),
    (ours.ExponentialLR(0.9), False),
    (ours.LinearLR(), False),
    (ours.LambdaLR(), False),
    (ours.MultiplicativeLR(), False),
    (ours.OneCycleLR(), True),
    (ours.CyclicLR(step_size_up=5), False),
    (cosine(), True),
    (wsd(), True),
    (wsd(warmup=4, cooldown=3), True),
]


@pytest.mark.parametrize(("schedule", "bounded"), LENGTHS)
@pytest.mark.parametrize("horizon", ["error", "keep", "extend"])
def test_resuming_in_a_longer_run(schedule, bounded, horizon):
    first = optimizer_of()
    scheduler = ScheduledLR(first, schedule.curve(HORIZON))
    run(scheduler, first, 10)
    second = optimizer_of()
    longer = ScheduledLR(second, schedule.curve(Horizon(60)), horizon=horizon)
    second.load_state_dict(first.state_dict())
    if bounded and horizon == "error":
        with pytest.raises(UsageError, match='25 steps, this one 60; in Python horizon="keep"'):
            longer.load_state_dict(scheduler.state_dict())
        return
    longer.load_state_dict(scheduler.state_dict())
    steps = 25 if bounded and horizon == "keep" else 60
    expected = schedule.curve(Horizon(steps))
    for t, (_, lr) in enumerate(run(longer, second, 20), start=10):
        if t > 10:  # the first is the checkpoint's
            assert lr == pytest.approx(expected(t, 0.5), rel=1e-12)
    assert not math.isnan(lr)


def test_an_invalid_horizon():
    with pytest.raises(UsageError, match="horizon must be one of error, keep, extend"):
        ScheduledLR(optimizer_of(), linear().curve(HORIZON), horizon="longer")
