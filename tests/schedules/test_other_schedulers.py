"""Where other schedulers, or the loop itself, set the lr too, compared with torch's schedulers."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

from lit_optim import schedules as S
from lit_optim.schedules.scheduling import schedule
from tests.schedules.loops import STEPS, Recorder, backward, lrs_of, model_and_optimizer


def per_update(t):
    return True


def per_epoch(t):
    return t % 6 == 5


def train_with_two(model, optimizer, first, second, change, when):
    """The lrs of each update; from update `change` on the loop steps the second scheduler."""
    seen = []
    for t in range(STEPS):
        backward(model)
        optimizer.step()
        seen.append(lrs_of(optimizer))
        optimizer.zero_grad()
        if when(t):
            (first if t < change else second).step()
    return seen


@pytest.mark.filterwarnings("ignore:the lr was changed after")
@pytest.mark.parametrize("when", [per_update, per_epoch])
@pytest.mark.parametrize("anneal", [0, 3])
def test_swalr_takes_over(when, anneal):
    """The loop of torch's manual: from some epoch on it steps SWALR instead."""
    found = []
    for is_ours in (False, True):
        model, optimizer = model_and_optimizer()
        if is_ours:
            made = S.ExponentialLR(0.9, interval="step" if when is per_update else "epoch")
            scheduler = schedule(optimizer, made, steps=STEPS, steps_per_epoch=6)
        else:
            scheduler = theirs.ExponentialLR(optimizer, 0.9)
        swa = SWALR(optimizer, swa_lr=0.02, anneal_epochs=anneal)
        found.append(train_with_two(model, optimizer, scheduler, swa, 11, when))
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=1e-9)


@pytest.mark.filterwarnings("ignore:the lr was changed after")
@pytest.mark.parametrize("when", [per_update, per_epoch])
@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("made_first", [0, 1])
def test_one_scheduler_after_another(made_first, ours_first, when):
    """A loop that steps a warmup first, then the other one; whichever is ours."""
    unit = {"interval": "step" if when is per_update else "epoch"}
    warmups = (lambda o: theirs.LinearLR(o, 0.2, 1.0, 3), S.LinearLR(0.2, 1.0, 3, **unit))
    others = (lambda o: theirs.ExponentialLR(o, 0.8), S.ExponentialLR(0.8, **unit))
    found = []
    for is_ours in (False, True):
        model, optimizer = model_and_optimizer()

        def ours(given, optimizer=optimizer):
            return schedule(optimizer, given, steps=STEPS, steps_per_epoch=6)

        pair: list[Any] = [warmups[0], others[0]]
        if is_ours:
            place = 0 if ours_first else 1
            pair[place] = lambda o, given=(warmups, others)[place][1]: ours(given)
        made: list[Any] = [None, None]
        for place in (made_first, 1 - made_first):
            made[place] = pair[place](optimizer)
        change = 3 if when is per_update else 12
        found.append(train_with_two(model, optimizer, *made, change, when))
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=1e-9)


def test_a_change_by_hand_is_kept_where_the_loop_never_steps():
    model, optimizer = model_and_optimizer()
    recorder = Recorder()
    scheduler = schedule(recorder.of(optimizer), S.ExponentialLR(0.9))
    for t in range(8):
        if t == 4:
            optimizer.param_groups[1]["lr"] *= 0.5
        backward(model)
        optimizer.step()
    assert [lrs[1] for lrs in recorder.seen] == pytest.approx(
        [0.05 * 0.9**t * (0.5 if t >= 4 else 1) for t in range(8)]
    )
    assert scheduler.last_epoch == 7


def test_a_schedule_that_waits_says_so():
    model, optimizer = model_and_optimizer()
    scheduler = schedule(optimizer, S.ExponentialLR(0.9))
    optimizer.param_groups[0]["lr"] = 0.3
    backward(model)
    optimizer.step()
    with pytest.warns(UserWarning, match="the schedule waits for its first step"):
        optimizer.step()
    scheduler.step()  # once for the two updates, relative to the new lr
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * 0.9**2)


LOST = "the schedule of the optimizer is gone before its first update"


@pytest.mark.parametrize("made", [S.cosine(), S.step(5), S.wsd("10%")])
def test_a_schedule_that_nobody_keeps_says_so_once(made):
    model, optimizer = model_and_optimizer()
    for steps in (STEPS, 2 * STEPS):  # also for one that is made later
        schedule(optimizer, made, steps=steps)
        backward(model)
        with pytest.warns(UserWarning, match=LOST):
            optimizer.step()
        with warnings.catch_warnings(action="error"):
            optimizer.step()


@pytest.mark.parametrize(
    "use",
    [
        lambda optimizer: schedule(optimizer, "constant"),
        lambda optimizer: [schedule(optimizer, name, steps=9) for name in ("cosine", "linear")][1],
        lambda optimizer: theirs.SequentialLR(
            optimizer, [schedule(optimizer, name, steps=9) for name in ("cosine", "linear")], [4]
        ),
        lambda optimizer: (
            schedule(optimizer, "cosine", steps=9).optimizer.param_groups[0].update(lr=1)
        ),
    ],
    ids=["constant", "replaced", "in a sequence", "changed by hand"],
)
def test_a_schedule_that_is_not_missed(use):
    model, optimizer = model_and_optimizer()
    kept = use(optimizer)
    backward(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", LOST)
        optimizer.step()
    del kept
    with warnings.catch_warnings():  # it has begun, and is over
        warnings.filterwarnings("error", LOST)
        optimizer.step()
        optimizer.step()


def test_a_sequence_of_torch_decides():
    """It advances ours as its own, whatever the updates: also once per epoch, and in a copy."""
    for when in (per_update, per_epoch):
        for ours_at in range(3):
            found = []
            for is_ours in (False, True):
                model, optimizer = model_and_optimizer()
                parts: list[Any] = [
                    theirs.LinearLR(optimizer, 0.2, 1.0, 2),
                    theirs.ExponentialLR(optimizer, 0.8),
                    theirs.LinearLR(optimizer, 0.5, 1.0, 2),
                ]
                if is_ours:
                    given = (S.LinearLR(0.2, 1.0, 2), S.ExponentialLR(0.8), S.LinearLR(0.5, 1.0, 2))
                    parts[ours_at] = schedule(optimizer, given[ours_at])
                sequence = theirs.SequentialLR(optimizer, parts, [1, 3])
                seen = []
                for t in range(STEPS):
                    if t == 10:
                        model, optimizer, sequence = copy.deepcopy((model, optimizer, sequence))
                    backward(model)
                    optimizer.step()
                    seen.append(lrs_of(optimizer))
                    optimizer.zero_grad()
                    if when(t):
                        sequence.step()
                found.append(seen)
            for one, other in zip(*found, strict=True):
                assert other == pytest.approx(one, rel=1e-9)


def train(model, optimizer, scheduler, steps):
    """The first lr of each update."""
    seen = []
    for _ in range(steps):
        backward(model)
        optimizer.step()
        seen.append(lrs_of(optimizer)[0])
        scheduler.step()
        optimizer.zero_grad()
    return seen


@pytest.mark.parametrize("earlier", ["replaced", "deleted", "kept"])
def test_a_schedule_that_was_made_twice(earlier):
    """In a cell of a notebook that runs again, or only to look at it."""
    expected = [0.1 * min(1, (t + 1) / 5) for t in range(8)]
    model, optimizer = model_and_optimizer()
    scheduler = schedule(optimizer, S.constant(5))
    kept = scheduler if earlier == "kept" else None
    if earlier == "deleted":
        del scheduler
    scheduler = schedule(optimizer, S.constant(5))
    found = train(model, optimizer, scheduler, 8)
    begin = 1 if earlier == "kept" else 0  # one that is alive may be a part of the same chain
    assert found[begin:] == pytest.approx(expected[begin:])
    assert kept is None or kept.last_epoch == 0


def test_two_of_ours_in_a_chain_are_a_product():
    found = []
    for warmup, decay in (
        (lambda o: theirs.LinearLR(o, 0.2, 1.0, 3), lambda o: theirs.ExponentialLR(o, 0.9)),
        (
            lambda o: schedule(o, S.LinearLR(0.2, 1.0, 3)),
            lambda o: schedule(o, S.ExponentialLR(0.9)),
        ),
    ):
        for order in (1, -1):
            model, optimizer = model_and_optimizer()
            parts = [make(optimizer) for make in (warmup, decay)][::order]
            found.append(train(model, optimizer, theirs.ChainedScheduler(parts), 8))
    assert found[2] == pytest.approx(found[0])
    assert found[3] == pytest.approx(found[1])


def test_a_finished_schedule_stays_where_it_is():
    """Also when the next one comes to the same lr."""
    made = S.CosineAnnealingLR(10)
    curve = [0.1 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(8)]
    model, optimizer = model_and_optimizer()
    first = schedule(optimizer, made)
    assert train(model, optimizer, first, 4) == pytest.approx(curve[:4])
    second = schedule(optimizer, made)
    assert train(model, optimizer, second, 8) == pytest.approx(curve)
    assert first.last_epoch == 4


@pytest.mark.parametrize("place", range(3))
def test_a_sequence_in_a_sequence(place):
    found = []
    for is_ours in (False, True):
        model, optimizer = model_and_optimizer()
        parts: list[Any] = [
            theirs.LinearLR(optimizer, 0.1, 1.0, 4),
            theirs.StepLR(optimizer, 100),
            theirs.ExponentialLR(optimizer, 0.9),
        ]
        if is_ours:
            given = (S.LinearLR(0.1, 1.0, 4), S.StepLR(100), S.ExponentialLR(0.9))
            parts[place] = schedule(optimizer, given[place])
        inner = theirs.SequentialLR(optimizer, parts[:2], [4])
        outer = theirs.SequentialLR(optimizer, [inner, parts[2]], [7])
        found.append(train(model, optimizer, outer, 12))
    assert found[1] == pytest.approx(found[0])
