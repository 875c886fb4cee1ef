"""`scheduler.step(metric)` in a loop of plain torch, as ReduceLROnPlateau takes it."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_optim import lr_schedulers
from lit_optim import schedules as S
from lit_optim.errors import UsageError
from lit_optim.schedules.scheduling import schedule

#: Of a validation after each epoch.
METRICS = [1.0, 0.8, 0.81, 0.82, math.nan, 0.7, 0.71, 0.72, 0.73, 0.74, 0.5, 0.6, 0.6, 0.6, 0.6]
ARGUMENTS = {"patience": 1, "factor": 0.5, "cooldown": 1}


def optimizer_of():
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)


def update(optimizer):
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()


def as_tensor(value):
    return torch.tensor(value)


def by_keyword(scheduler, metric):
    scheduler.step(metrics=metric)


def by_position(scheduler, metric):
    scheduler.step(metric)


@pytest.mark.parametrize("twin", [None, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("give", [by_keyword, by_position])
@pytest.mark.parametrize("kind", [float, as_tensor, np.float32])
def test_equals_torchs(kind, give, twin):
    found = []
    for make in (
        lambda o: ReduceLROnPlateau(o, **ARGUMENTS),
        lambda o: schedule(o, S.plateau(**ARGUMENTS)),
        lambda o: lr_schedulers.ReduceLROnPlateau(o, **ARGUMENTS),
    ):
        optimizer = optimizer_of()
        scheduler = make(optimizer)
        assert isinstance(scheduler, ReduceLROnPlateau)
        seen = []
        for epoch, metric in enumerate(METRICS):
            for _ in range(3):
                update(optimizer)
            give(scheduler, kind(metric))
            seen.append(
                [
                    optimizer.param_groups[0]["lr"],
                    scheduler.get_last_lr()[0],
                    scheduler.best,
                    scheduler.num_bad_epochs,
                    scheduler.cooldown_counter,
                ]
            )
            if epoch == 6 and twin is not None:
                optimizer, scheduler = twin((optimizer, scheduler))
        found.append(seen)
    assert found[1] == [pytest.approx(row) for row in found[0]]
    assert found[2] == [pytest.approx(row) for row in found[0]]


def test_a_warmup_moves_with_the_updates():
    optimizer = optimizer_of()
    scheduler = schedule(optimizer, S.plateau(warmup=4, patience=0, factor=0.5))
    seen = []
    for t in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        update(optimizer)
        scheduler.step(1.0 if t < 6 else 2.0) if t % 3 == 2 else scheduler.step()
    # the first value is the best; the same value again, and a worse one, halve the lr
    assert seen == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_every_ignores_what_lies_between():
    optimizer = optimizer_of()
    scheduler = schedule(optimizer, S.plateau(patience=0, factor=0.5, every=4))
    for t in range(12):
        update(optimizer)
        scheduler.step(float(t))
    assert scheduler.best == 3.0  # at updates 4, 8 and 12 it was 3, 7 and 11
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_a_name_tells_the_direction():
    for monitor, mode, lowered in (
        (None, None, True),
        ("val/accuracy", None, False),
        ("val/loss", None, True),
        ("val/loss", "max", False),
    ):
        optimizer = optimizer_of()
        given = S.plateau(patience=0, factor=0.5, monitor=monitor, mode=mode)
        scheduler = schedule(optimizer, given)
        for value in (1.0, 2.0, 3.0):
            update(optimizer)
            scheduler.step(value)
        assert (optimizer.param_groups[0]["lr"] < 0.1) is lowered


@pytest.mark.parametrize(
    "metric", ["val_loss", {"val_loss": 1.0}, [1.0], torch.ones(2), True, 1 + 2j, object()]
)
def test_what_is_no_metric(metric):
    scheduler = schedule(optimizer_of(), S.plateau())
    with pytest.raises(UsageError, match=r"step\(metrics\): the metric must be a number, got"):
        scheduler.step(metric)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("metric", [0.37, torch.tensor(0.37), "val_loss"])
def test_a_metric_for_a_schedule_that_follows_none(metric):
    scheduler = schedule(optimizer_of(), S.cosine(), steps=10)
    for give in (by_keyword, by_position):
        with pytest.raises(UsageError, match="the schedule responds to no metric"):
            give(scheduler, metric)
