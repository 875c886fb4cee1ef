"""Schedules that respond to a metric equal those of torch and transformers."""

from __future__ import annotations

import math
import random

import pytest
import torch
from transformers.optimization import GreedyLR

from lit_optim.compat.torch_schedules import ReduceLROnPlateau
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.metric_schedules import greedy, plateau


def optimizer():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.03)]
    return torch.optim.SGD(groups, lr=0.1)


def metrics(seed, count=400):
    """Falling, flat, rising and falling again, with noise and a NaN."""
    noise = random.Random(seed)
    shape = [abs(math.sin(t / 60)) + 0.05 * noise.random() for t in range(count)]
    shape[50] = math.nan
    return shape


def followed(schedule, sequence, reload_at=None):
    made = optimizer()
    scheduler = ScheduledLR(made, schedule.curve(Horizon(1000)))
    lrs = []
    for index, metric in enumerate(sequence):
        if index == reload_at:  # a checkpoint in between
            state = scheduler.state_dict()
            scheduler = ScheduledLR(made, schedule.curve(Horizon(1000)))
            scheduler.load_state_dict(state)
        scheduler.observe(metric)
        lrs.append([group["lr"] for group in made.param_groups])
    return lrs


def expected(scheduler_of, sequence):
    made = optimizer()
    scheduler = scheduler_of(made)
    lrs = []
    for metric in sequence:
        scheduler.step(metric)
        lrs.append([group["lr"] for group in made.param_groups])
    return lrs


PLATEAUS = [
    {"patience": 2},
    {"patience": 0, "factor": 0.7, "min_lr": 1e-3, "cooldown": 3},
    {"patience": 3, "threshold": 0.01, "threshold_mode": "abs", "eps": 1e-3},
]
GREEDY = [
    {"patience": 1, "min_lr": 0.01, "max_lr": 0.5},
    {"patience": 2, "min_lr": 0.02, "cooldown": 2, "warmup": 3, "factor": 0.5, "reset_start": 3},
    {"patience": 1, "min_lr": 0.001, "smooth": True, "window_size": 4, "threshold_mode": "rel"},
]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("settings", PLATEAUS, ids=str)
def test_plateau_equals_torchs(settings, mode):
    sequence = metrics(0)
    theirs = expected(
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, mode=mode, **settings), sequence
    )
    ours = followed(ReduceLROnPlateau(mode=mode, **settings), sequence)
    assert [lr for lrs in ours for lr in lrs] == pytest.approx(
        [lr for lrs in theirs for lr in lrs], abs=1e-12
    )
    assert min(lrs[0] for lrs in ours) < 0.1  # something happened


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("settings", GREEDY, ids=str)
def test_greedy_equals_transformers(settings, mode):
    sequence = metrics(1)
    if settings.get("smooth"):  # a NaN never leaves transformers' running sum; it leaves ours
        sequence[50] = 0.5
    theirs = expected(lambda o: GreedyLR(o, mode=mode, **({"max_lr": 1.0} | settings)), sequence)
    ours = followed(greedy(mode=mode, **({"max_lr": 1.0} | settings)), sequence)
    assert [lr for lrs in ours for lr in lrs] == pytest.approx(
        [lr for lrs in theirs for lr in lrs], abs=1e-12
    )
    assert len({lrs[0] for lrs in ours}) > 2


@pytest.mark.parametrize("schedule", [plateau(patience=1), greedy(patience=1, smooth=True)])
def test_state_is_saved(schedule):
    sequence = metrics(2, 60)
    assert followed(schedule, sequence, reload_at=31) == followed(schedule, sequence)


def test_plateau_has_a_warmup_and_a_floor():
    curve = plateau(warmup=4, patience=0, factor=0.5, min_lr_ratio=0.2).curve(Horizon(100))
    assert [curve(t) for t in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    seen = []
    for metric in (1.0, 1.0, 1.0, 1.0):
        curve.observe(metric)
        seen.append(curve(10))
    assert seen == [1.0, 0.5, 0.25, 0.2]
