"""Copies and pickles of every schedule continue with the copied optimizer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lit_optim.config.places import groups
from lit_optim.optimizers.sgd import SGD
from lit_optim.schedules import registry
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.curve import MonitoredMetric
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.hyperparameter_schedules import parse_hyperparameter_schedules
from lit_optim.schedules.phase_parser import phases
from lit_optim.wrappers import Ema

HORIZON = Horizon(40, steps_per_epoch=10, samples_per_step=4)
CHOICES = {name: path for name, path in groups()["scheduler"].items() if name != "none"}
#: Further arguments that choose a shape or a formula of their own.
MORE = {
    "wsd_power": {"name": "wsd", "shape": "power(1.5)"},
    "wsd_polynomial": {"name": "wsd", "shape": "polynomial(2)"},
    "wsd_exponential": {"name": "wsd", "shape": "exponential(0.01)"},
    "wsd_ratio": {"name": "wsd", "shape": "inverse_sqrt", "min_lr_ratio": 0.1},
    "noam_d_model": {"name": "noam", "warmup": 4, "d_model": 64},
    "lambda_epoch": {"name": "lambda", "expr": "lambda epoch: 0.9 ** epoch"},
    "lambda_dotted": {"name": "lambda", "expr": "math.erfc"},
    "cosine_waves": {"name": "cosine_with_min_lr", "num_cycles": 1.5},
    "phases_open": {
        "name": "phases", "phases": [{"shape": "inverse_sqrt", "from": 1, "timescale": "10%"}],
    },
}  # fmt: skip


def every_schedule():
    """Every choice of conf/scheduler, and every registered function."""
    found = {f"conf:{name}": path for name, path in CHOICES.items()}
    found |= {
        f"function:{name}": {"name": name}
        for name in registry.schedules_by_name()
        if name != "none"
    }
    return found | {f"more:{name}": node for name, node in MORE.items()}


EVERY = every_schedule()


def schedule_of(given):
    if isinstance(given, dict):
        function = registry.schedules_by_name()[given["name"]]
        made = function(**{k: v for k, v in given.items() if k != "name"})
    else:
        node = OmegaConf.load(given)
        node = OmegaConf.merge({"monitor": "val/loss", "mode": "min"}, {"node": node})
        made = instantiate(node.node, _convert_="all")
    metric = made.metric
    return (
        made
        if metric is None
        else made.with_metric(MonitoredMetric("val/loss", "min", metric.every))
    )


def model_and_optimizer(wrap=lambda o: o):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1).double()
    params = [{"params": [model.weight], "lr": 0.3}, {"params": [model.bias]}]
    return model, wrap(SGD(params, lr=0.1, momentum=0.9))


def go_on(model, optimizer, scheduler, steps):
    seen = []
    for t in range(steps):
        seen.append([(g["lr"], g["momentum"]) for g in optimizer.param_groups])
        optimizer.zero_grad()
        model(torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        scheduler.step()
        if scheduler.curve.metric is not None:
            scheduler.observe(1.0 if t % 3 else 2.0)
    return seen


def pickled(x):
    return pickle.loads(pickle.dumps(x))


@pytest.mark.parametrize("twin", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", EVERY)
def test_a_copy_continues_alike_and_independently(name, twin):
    model, optimizer = model_and_optimizer()
    scheduler = ScheduledLR(optimizer, schedule_of(EVERY[name]).curve(HORIZON))
    go_on(model, optimizer, scheduler, 10)
    trio = twin((model, optimizer, scheduler))
    assert trio[2].optimizer is trio[1]
    expected = go_on(model, optimizer, scheduler, 20)
    before = [group["lr"] for group in optimizer.param_groups]
    assert go_on(*trio, 20) == expected
    assert [group["lr"] for group in optimizer.param_groups] == before
    assert torch.equal(trio[0].weight, model.weight)


@pytest.mark.parametrize("twin", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", EVERY)
def test_schedules_and_curves_can_be_copied(name, twin):
    schedule = schedule_of(EVERY[name])
    curve, other = schedule.curve(HORIZON), twin(schedule).curve(HORIZON)
    third = twin(schedule.curve(HORIZON))
    for t in range(41):
        assert curve(t, 0.1) == other(t, 0.1) == third(t, 0.1)


@pytest.mark.parametrize("name", EVERY)
def test_a_schedule_reads_like_the_call_that_makes_it(name):
    schedule = schedule_of(EVERY[name])
    again = eval(repr(schedule), registry.functions_by_name())
    if schedule.metric is not None:
        again = again.with_metric(schedule.metric)
    assert again == schedule
    assert repr(again) == repr(schedule) == repr(pickled(schedule))
    scheduler = ScheduledLR(model_and_optimizer()[1], schedule.curve(HORIZON))
    assert repr(scheduler) == f"ScheduledLR({schedule!r}, total={scheduler.curve.total})"


def test_a_shallow_copy_sets_the_lr_of_the_same_optimizer():
    """`copy.copy` also keeps an update that the scheduler has not seen yet."""
    model, optimizer = model_and_optimizer()
    scheduler = ScheduledLR(optimizer, schedule_of({"name": "linear"}).curve(HORIZON))
    go_on(model, optimizer, scheduler, 3)
    optimizer.step()
    other = copy.copy(scheduler)
    assert other.optimizer is optimizer
    other.step()
    assert other.last_epoch == 4
    scheduler.step()
    assert scheduler.last_epoch == 4


@pytest.mark.parametrize("twin", [copy.deepcopy, pickled])
def test_a_wrapper_and_a_scheduled_hyperparameter_are_copied(twin):
    """With Ema, a scheduled hyperparameter, and a scheduler that steps after updates."""
    model, optimizer = model_and_optimizer(lambda o: Ema(o, decay=0.9))
    [parsed] = parse_hyperparameter_schedules(
        {"ema.decay": [{"shape": "linear", "from": 0.5, "to": 0.9}]}
    )
    momentum = parsed.attach(parsed.schedule.curve(HORIZON), optimizer)
    scheduler = ScheduledLR(optimizer, phases().curve(HORIZON), [momentum])
    scheduler.step_after_updates()
    go_on(model, optimizer, scheduler, 5)
    other_model, other, other_scheduler = twin((model, optimizer, scheduler))
    expected = go_on(model, optimizer, scheduler, 10)
    assert go_on(other_model, other, other_scheduler, 10) == expected
    assert other.decay == optimizer.decay != 0.9
    assert other.updates == optimizer.updates == 15
    assert other.base is not optimizer.base
    assert torch.equal(other_model.weight, model.weight)
