"""Every schedule equals its counterpart in torch, transformers or a paper, to 1e-12."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from lit_optim.compat.torch_schedules import CosineAnnealingLR, StepLR
from lit_optim.config.places import groups
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from tests.schedules.all_counterparts import ROWS
from tests.schedules.counterparts import FOLLOWERS

NAMES = sorted(set(groups()["scheduler"]) - {"none"})
LENGTHS = (1, 2, 7, 50, 333)
CASES = [
    pytest.param(row, length, share, id=f"{name}{index}-{length}-{share}")
    for name, rows in ROWS.items()
    for index, row in enumerate(rows)
    for length in LENGTHS
    if length >= row.shortest and length % row.multiple == 0
    for share in ((0, 0.1, 0.5, 1) if row.warmups else (0,))
    if length - int(share * length) >= row.leaves
]


def optimizer():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.01, 0.003)]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.5)


def driven(scheduler_of, count):
    """The lrs, and momenta, of each group at each of `count` updates."""
    made = optimizer()
    scheduler = scheduler_of(made)
    values = []
    for _ in range(count):
        values.append([(group["lr"], group["momentum"]) for group in made.param_groups])
        for group in made.param_groups:
            group["params"][0].grad = torch.zeros(1)
        made.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_has_a_counterpart(name):
    assert name in ROWS.keys() | FOLLOWERS, f"pair {name} with a counterpart in counterparts.py"


@pytest.mark.sampled(300)
@pytest.mark.parametrize(("row", "length", "share"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_every_schedule_equals_its_counterparts(row, length, share):
    warmup = int(share * length)
    # past a run that was all warmup, ours stays at the peak
    count = length + (row.past if warmup < length else 0)
    schedule = row.ours(length, warmup)
    total = schedule.total if isinstance(schedule.total, int) else length
    curve = schedule.curve(Horizon(total))
    ours = driven(lambda o: ScheduledLR(o, curve), count)
    theirs = driven(lambda o: row.theirs(o, length, warmup), count)
    for t, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for group in range(1 if row.first_group else 2):
            assert mine[group][0] == pytest.approx(other[group][0], abs=1e-12), f"lr at {t}"
            if row.momentum:
                assert mine[group][1] == pytest.approx(other[group][1], abs=1e-12)


def test_documented_differences_exist():
    """torch's cosine rises again after its end; ours stays at the floor."""
    climbing = driven(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10), 20)
    curve = CosineAnnealingLR(T_max=10).curve(Horizon(20))
    assert climbing[19][0][0] > 0.009
    assert [curve(t) for t in range(10, 20)] == [0.0] * 10


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5), StepLR(2, 0.5)),
        (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6), CosineAnnealingLR(6)),
    ],
    ids=["StepLR", "CosineAnnealingLR"],
)
def test_interval_counts_steps_or_epochs(theirs, ours, interval):
    """In a run of 6 epochs with 5 updates each."""
    from dataclasses import replace

    count = 6 if interval == "epoch" else 30
    stepped = driven(theirs, count)
    curve = replace(ours, interval=interval).curve(Horizon(30, steps_per_epoch=5))
    if interval == "step" and "Cosine" in repr(ours):
        stepped[7:] = [[(0.0, 0.5)] * 2] * 23  # where theirs climbs again
    for t in range(30):
        expected = stepped[t // 5 if interval == "epoch" else t][0][0]
        assert 0.01 * curve(t) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_file_names_the_function_of_its_counterpart(name):
    target = OmegaConf.load(groups()["scheduler"][name])._target_
    function = target.rpartition(".")[2].rstrip("_")
    assert function == {"reduce_lr_on_plateau": "ReduceLROnPlateau"}.get(name, name)
    assert target.startswith(("lit_optim.schedules.", "lit_optim.compat."))
