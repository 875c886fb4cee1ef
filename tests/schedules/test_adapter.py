"""ScheduledLR sets the lr of every group, and momentum in groups that have it."""

from __future__ import annotations

import io

import pytest
import torch

from lit_optim.compat.torch_schedules import OneCycleLR
from lit_optim.errors import UsageError
from lit_optim.optimizers.adagrad import Adagrad
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.sgd import SGD
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.combinators import chained, sequential
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.formula_schedules import multiplicative
from lit_optim.schedules.library import cosine, one_cycle
from lit_optim.schedules.metric_schedules import greedy, plateau

HORIZON = Horizon(20)


def stepped(optimizer, scheduler, count):
    seen = []
    for _ in range(count):
        seen.append([dict(group) for group in optimizer.param_groups])
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
    return seen


def parameter():
    return torch.nn.Parameter(torch.ones(2, dtype=torch.float64))


def test_momentum_is_set_in_optimizers_that_have_it():
    curve = one_cycle(momentum=(0.8, 0.9)).curve(HORIZON)
    expected = [curve.hyperparameter_curves["momentum"](t) for t in range(20)]
    assert min(expected) == 0.8
    groups = [{"params": [parameter()], "momentum": 0.5}, {"params": [parameter()]}]
    sgd = SGD(groups, lr=0.1)
    seen = stepped(sgd, ScheduledLR(sgd, curve), 20)
    assert [g[0]["momentum"] for g in seen] == expected
    assert {g[1]["momentum"] for g in seen} == {0.0}  # none was asked for
    adamw = AdamW([parameter()], betas=(0.7, 0.99))
    seen = stepped(adamw, ScheduledLR(adamw, curve), 20)
    assert [g[0]["betas"] for g in seen] == [(m, 0.99) for m in expected]
    adagrad = Adagrad([parameter()])
    seen = stepped(adagrad, ScheduledLR(adagrad, curve), 20)
    assert "momentum" not in seen[-1][0]


def test_groups_with_the_same_lr_share_one_evaluation():
    """The curve may be an expensive formula of the user."""
    asked = []

    class Halves(Curve):
        def __call__(self, t, lr=1.0):
            asked.append((t, lr))
            return lr / 2**t

    lrs = [0.1, 0.4, 0.1, 0.4, 0.1]
    sgd = SGD([{"params": [parameter()], "lr": lr} for lr in lrs], lr=1.0)
    seen = stepped(sgd, ScheduledLR(sgd, Halves(4)), 4)
    assert [[g["lr"] for g in groups] for groups in seen] == [
        [lr / 2**t for lr in lrs] for t in range(4)
    ]
    assert asked == [(t, lr) for t in range(5) for lr in (0.1, 0.4)]


def test_null_leaves_momentum_unchanged():
    sgd = SGD([parameter()], lr=0.1, momentum=0.5)
    seen = stepped(sgd, ScheduledLR(sgd, one_cycle(momentum=None).curve(HORIZON)), 20)
    assert {g[0]["momentum"] for g in seen} == {0.5}


@pytest.mark.parametrize(
    "schedule",
    [
        multiplicative("1 - 1 / (step + 2)"),
        chained([multiplicative("0.9"), {"name": "cosine"}]),
        one_cycle(),
    ],
    ids=["multiplicative", "chained", "one_cycle"],
)
def test_a_saved_scheduler_resumes(schedule):
    straight = SGD([parameter()], lr=0.1, momentum=0.9)
    expected = stepped(straight, ScheduledLR(straight, schedule.curve(HORIZON)), 20)
    first = SGD([parameter()], lr=0.1, momentum=0.9)
    scheduler = ScheduledLR(first, schedule.curve(HORIZON))
    stepped(first, scheduler, 8)
    file = io.BytesIO()
    torch.save([first.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    saved = torch.load(file)  # under torch's default weights_only
    second = SGD([parameter()], lr=0.1, momentum=0.9)
    again = ScheduledLR(second, schedule.curve(HORIZON))
    second.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    seen = stepped(second, again, 12)
    keys = ("lr", "momentum")
    assert [[g[0][k] for k in keys] for g in seen] == [
        [g[0][k] for k in keys] for g in expected[8:]
    ]


def test_another_length_is_an_error():
    sgd = SGD([parameter()], lr=0.1)
    saved = ScheduledLR(sgd, cosine().curve(Horizon(30))).state_dict()
    with pytest.raises(UsageError, match="has 30 steps, this one 20"):
        ScheduledLR(sgd, cosine().curve(HORIZON)).load_state_dict(saved)


def test_parts_of_a_sequence_set_momentum():
    parts = [{"name": "OneCycleLR", "max_lr": 0.1}, {"name": "cosine"}]
    whole = OneCycleLR(max_lr=0.1).curve(Horizon(10)).hyperparameter_curves["momentum"]
    sgd = SGD([parameter()], lr=0.1, momentum=0.9)
    seen = stepped(sgd, ScheduledLR(sgd, sequential(parts, milestones=[10]).curve(HORIZON)), 20)
    expected = [whole(t) for t in range(10)]
    assert [g[0]["momentum"] for g in seen] == expected + [expected[-1]] * 10
    curve = chained([{"name": "cosine"}, {"name": "one_cycle"}]).curve(HORIZON)
    assert curve.hyperparameter_curves.keys() == {"momentum"}


def test_a_schedule_without_a_length_resumes_in_a_longer_run():
    for schedule, bounded in [(plateau(), False), (greedy(), False), (plateau(warmup="10%"), True)]:
        sgd = SGD([parameter()], lr=0.1)
        saved = ScheduledLR(sgd, schedule.curve(HORIZON)).state_dict()
        longer = ScheduledLR(sgd, schedule.curve(Horizon(40)))
        if bounded:
            with pytest.raises(UsageError, match="has 20 steps"):
                longer.load_state_dict(saved)
        else:
            longer.load_state_dict(saved)
