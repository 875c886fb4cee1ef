"""Loops of plain torch: with a loss scaler, accumulation, checkpoints, anybody's optimizer."""

from __future__ import annotations

import io

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from lit_optim import Ema, Muon, schedule
from lit_optim import schedules as S
from tests.optimizers_of_others import OTHERS

STEPS = 12


def model_and_batches():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    return model.double(), torch.randn(STEPS, 8, 3, dtype=torch.float64)


def loss_of(model, x):
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


@pytest.mark.parametrize("name", [name for name in OTHERS if not name.startswith("in_")])
def test_any_optimizer(name):
    """The reference is a loop of torch's scheduler with SGD, which these optimizers are."""
    found = []
    for make, scheduler_of in (
        (torch.optim.SGD, lambda o: theirs.StepLR(o, 4, 0.5)),
        (OTHERS[name], lambda o: schedule(o, S.step(4, 0.5))),
    ):
        model, batches = model_and_batches()
        optimizer = make(list(model.parameters()), lr=0.1)
        scheduler = scheduler_of(optimizer)
        for x in batches:
            optimizer.zero_grad()
            loss_of(model, x).backward()
            optimizer.step()
            scheduler.step()
        found.append([p.detach().clone() for p in model.parameters()])
    for expected, p in zip(*found, strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("every", [1, 3])
def test_accumulated_batches(every):
    """`scheduler.step()` for each batch does no harm."""
    model, batches = model_and_batches()
    optimizer = Muon(model, lr=0.1)
    scheduler = schedule(optimizer, S.linear(), steps=STEPS // every)
    for k, x in enumerate(batches, 1):
        loss_of(model, x).backward()
        if k % every == 0:
            optimizer.step()
            optimizer.zero_grad()
        if k >= every:  # a step before the optimizer's first is warned of, as by torch
            scheduler.step()
    assert scheduler.last_epoch == STEPS // every
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}


def test_a_loss_scaler_that_skips_steps():
    """torch's own loop has to notice that itself; the lr of each update is the same."""
    found = []
    for is_ours in (False, True):
        model, batches = model_and_batches()
        model.float()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if is_ours:
            scheduler = schedule(optimizer, S.ExponentialLR(0.9))
        else:
            scheduler = theirs.ExponentialLR(optimizer, 0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
        seen = []
        optimizer.register_step_post_hook(
            lambda o, *_, seen=seen: seen.append(o.param_groups[0]["lr"])
        )
        for k, x in enumerate(batches.float()):
            loss = loss_of(model, x) * (float("inf") if k % 4 == 1 else 1)
            scaler.scale(loss).backward()
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if is_ours or scaler.get_scale() >= before:
                scheduler.step()
            optimizer.zero_grad()
        found.append(seen)
    assert len(found[0]) == STEPS - 3
    assert found[1] == pytest.approx(found[0], rel=1e-12)


@pytest.mark.parametrize("place", ["before the scheduler's step", "after it"])
@pytest.mark.parametrize("steps_after_loading", [True, False])
def test_a_run_that_is_saved_anywhere_goes_on_alike(place, steps_after_loading):
    """Also where the loop goes on with the call of `step` that came after saving, or without."""

    def make():
        model, batches = model_and_batches()
        optimizer = Ema(Muon(model, lr=0.1), decay=0.5)
        return model, batches, optimizer, schedule(optimizer, S.cosine_warmup("20%"), steps=STEPS)

    model, batches, optimizer, scheduler = make()
    file = io.BytesIO()
    for k, x in enumerate(batches):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()
        if place == "after it":
            scheduler.step()
        if k == 6:
            torch.save([o.state_dict() for o in (model, optimizer, scheduler)], file)
        if place != "after it":
            scheduler.step()
    again, batches, optimizer, other = make()
    file.seek(0)
    for one, state in zip((again, optimizer, other), torch.load(file), strict=True):
        one.load_state_dict(state)
    if steps_after_loading:
        other.step()
    for x in batches[7:]:
        optimizer.zero_grad()
        loss_of(again, x).backward()
        optimizer.step()
        other.step()
    assert other.last_epoch == scheduler.last_epoch == STEPS
    for p, q in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
