"""Schedules of hyperparameters other than the lr."""

from __future__ import annotations

import math

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.ademamix import AdEMAMix
from lit_optim.optimizers.muon import Muon
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.hyperparameter_schedules import parse_hyperparameter_schedules
from lit_optim.schedules.library import constant, cosine, one_cycle
from lit_optim.wrappers import Ema

STEPS = 20


def params(count=1):
    return [torch.nn.Parameter(torch.full((3, 2), 1.5, dtype=torch.float64)) for _ in range(count)]


def scheduled(optimizer, schedules, schedule=None, steps=STEPS):
    horizon = Horizon(steps)
    moved = [
        one.attach(one.schedule and one.schedule.curve(horizon), optimizer)
        for one in parse_hyperparameter_schedules(schedules)
    ]
    return ScheduledLR(optimizer, (schedule or constant()).curve(horizon), moved)


def stepped(optimizer, adapter, read, steps=STEPS):
    values = []
    for step in range(steps):
        values.append(read(optimizer))
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.sin(p.detach() + step)
        optimizer.step()
        adapter.step()
    return values


def falling(t, first, last):
    """A cosine that reaches its end at the last update."""
    return last + (first - last) * (1 + math.cos(math.pi * (t + 1) / STEPS)) / 2


def test_scheduled_weight_decay_equals_a_loop_written_by_hand():
    ours, theirs = params(), params()
    hyper = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.5}
    optimizer = AdamW(ours, **hyper)
    given = {"weight_decay": [{"shape": "cosine", "from": 0.5, "to": 0.05}]}
    adapter = scheduled(optimizer, given, cosine())
    stepped(optimizer, adapter, lambda o: None)
    other = torch.optim.AdamW(theirs, **hyper, foreach=False)
    for t in range(STEPS):
        other.param_groups[0].update(weight_decay=falling(t, 0.5, 0.05), lr=falling(t, 0.1, 0.0))
        theirs[0].grad = torch.sin(theirs[0].detach() + t)
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("lr", lambda t: 0.3 * falling(t, 1, 0)),
        ("cosine", lambda t: falling(t, 0.3, 0)),
        ({"name": "cosine", "min_lr_ratio": 0.5}, lambda t: falling(t, 0.3, 0.15)),
        ([{"shape": "linear", "from": 0, "to": 1}], lambda t: (t + 1) / STEPS),
        (
            {"phases": [{"shape": "linear", "from": 0, "to": 1}], "absolute": False},
            lambda t: 0.3 * (t + 1) / STEPS,
        ),
        (cosine(), lambda t: falling(t, 0.3, 0)),
    ],
    ids=["as the lr", "name", "arguments", "values", "factors", "object"],
)
def test_forms_of_a_schedule(given, expected):
    optimizer = AdamW(params(), weight_decay=0.3)
    adapter = scheduled(optimizer, {"weight_decay": given}, cosine())
    values = stepped(optimizer, adapter, lambda o: o.param_groups[0]["weight_decay"])
    assert values == pytest.approx([expected(t) for t in range(STEPS)], abs=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "schedules", "read"),
    [
        (
            lambda: Muon([{"params": params(), "role": "hidden"}], lr=0.1),
            {"momentum": [{"shape": "linear", "from": 0.8, "to": 0.9}]},
            lambda o: o.param_groups[0]["momentum"],
        ),
        (
            lambda: AdamW(params(), betas=(0.5, 0.99)),
            {"betas.0": [{"shape": "linear", "from": 0.8, "to": 0.9}]},
            lambda o: o.param_groups[0]["betas"][0],
        ),
        (
            lambda: AdamW(params()),
            {"betas": {0: [{"shape": "linear", "from": 0.8, "to": 0.9}]}},
            lambda o: o.param_groups[0]["betas"][0],
        ),
        (
            lambda: AdEMAMix(params()),
            {"alpha": [{"shape": "linear", "from": 0.8, "to": 0.9}]},
            lambda o: o.param_groups[0]["alpha"],
        ),
        (
            lambda: Ema(AdamW(params()), decay=0.5),
            {"ema": {"decay": [{"shape": "linear", "from": 0.8, "to": 0.9}]}},
            lambda o: o.decay,
        ),
    ],
    ids=["momentum", "betas.0", "nested", "alpha", "a wrapper's"],
)
def test_every_hyperparameter_can_be_scheduled(optimizer, schedules, read):
    made = optimizer()
    values = stepped(made, scheduled(made, schedules), read)
    assert values == pytest.approx([0.8 + 0.1 * (t + 1) / STEPS for t in range(STEPS)], abs=1e-12)


def test_a_schedule_for_one_group():
    first, second = params(2)
    groups = [{"params": [first], "name": "body"}, {"params": [second], "name": "head"}]
    optimizer = AdamW(groups, weight_decay=0.2)
    given = {"weight_decay": {"groups": {"head": "cosine"}}}
    adapter = scheduled(optimizer, given)
    decays = stepped(
        optimizer, adapter, lambda o: [group["weight_decay"] for group in o.param_groups]
    )
    assert decays == [pytest.approx([0.2, falling(t, 0.2, 0)]) for t in range(STEPS)]


def test_a_skipped_step_changes_nothing_and_saving_keeps_the_position():
    given = {"weight_decay": [{"shape": "linear", "from": 1, "to": 0}]}
    whole, parts = params(), params()
    one = AdamW(whole)
    stepped(one, scheduled(one, given), lambda o: None)
    two = AdamW(parts)
    adapter = scheduled(two, given)
    stepped(two, adapter, lambda o: None, 7)
    before = two.param_groups[0]["weight_decay"]
    parts[0].grad = None
    two.step()
    adapter.step()
    assert two.param_groups[0]["weight_decay"] == before
    third = AdamW(parts)
    again = scheduled(third, given)
    third.load_state_dict(two.state_dict())
    again.load_state_dict(adapter.state_dict())
    for step in range(7, STEPS):
        parts[0].grad = torch.sin(parts[0].detach() + step)
        third.step()
        again.step()
    assert torch.equal(whole[0], parts[0])
    other = scheduled(AdamW(params()), {"weight_decay": "lr", "eps": "lr"})
    with pytest.raises(UsageError, match="the checkpoint's schedules are"):
        other.load_state_dict(adapter.state_dict())


@pytest.mark.parametrize(
    ("schedules", "line"),
    [
        ({"weight_decai": "lr"}, "schedules.weight_decai: AdamW has no weight_decai; did you mean"),
        ({"lr": "cosine"}, "schedules.lr: the lr has a schedule of its own, scheduler="),
        ({"betas": "cosine"}, "name one, such as schedules.betas.0"),
        ({"betas.2": "cosine"}, "which has no part '2'"),
        ({"amsgrad": "cosine"}, "amsgrad is False; only a number can have a schedule"),
        ({"weight_decay": "cosin"}, "did you mean cosine"),
        ({"weight_decay": 0.1}, "schedules.weight_decay must be a schedule such as"),
        ({"weight_decay": "plateau"}, "responds to a metric"),
        (
            {"betas.0": [{"shape": "linear", "from": 0.9, "to": 1.5}]},
            "schedules.betas.0 is 1.02 at update 3, but betas must be",
        ),
        ({"weight_decay": {"groups": {"hed": "lr"}}}, "no group 'hed'; did you mean head?"),
        ({"weight_decay": {"groups": {}, "x": 1}}, "without other keys"),
        ({"weight_decay": [{"shape": "linear", "to": 1}]}, "phases.0.from must be given"),
    ],
    ids=["key", "lr", "betas", "part", "bool", "name", "number", "metric", "range", "group", "more",
         "start"],
)  # fmt: skip
def test_mistakes(schedules, line):
    optimizer = AdamW([{"params": params(), "name": "head"}], weight_decay=0.1)
    with pytest.raises(UsageError) as refused:
        scheduled(optimizer, schedules)
    assert line in str(refused.value)


def test_momentum_set_by_the_scheduler_and_by_schedules_is_an_error():
    with pytest.raises(UsageError, match=r"its argument momentum=null"):
        scheduled(AdamW(params()), {"betas.0": "cosine"}, one_cycle())
