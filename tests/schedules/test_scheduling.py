"""`schedule`, `lit_optim.schedules` and `lit_optim.lr_schedulers` give torch schedulers."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

import lit_optim.schedules as S
from lit_optim import lr_schedulers
from lit_optim.errors import UsageError
from lit_optim.schedules import registry
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.scheduling import RUN_ARGUMENTS, schedule

NAMES = sorted(registry.functions_by_name())


def optimizer_of(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=lr, momentum=0.9)


def trace(optimizer, scheduler, steps):
    """The lr of each update."""
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_is_an_attribute(name):
    assert name in S.__all__
    assert name in dir(S)
    assert getattr(S, name) is registry.functions_by_name()[name]


def test_a_misspelt_name_suggests():
    for place in (S, lr_schedulers):
        with pytest.raises(AttributeError, match="no attribute 'cosine_warmpu'; did you mean cosi"):
            place.cosine_warmpu  # noqa: B018
    with pytest.raises(UsageError, match="unknown schedule 'cosine_warmpu'; did you mean cosine_w"):
        schedule(optimizer_of(), "cosine_warmpu", steps=10)


def test_an_old_module_does_not_hide_a_schedule():
    from lit_optim.schedules.phases import Phases

    assert Phases is S.phase_schedule.Phases
    assert S.phases().curve(Horizon(20))(10) == 1
    sys.modules.pop("lit_optim.schedules.phases")


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_is_a_function_of_the_optimizer(name):
    """Its arguments are those of the schedule, and its values those of the curve."""
    function, make = registry.functions_by_name()[name], getattr(lr_schedulers, name)
    names = list(inspect.signature(make).parameters)
    expected = [*registry.argument_names(function), *RUN_ARGUMENTS]
    assert names[0] == "optimizer"
    assert sorted(names[1:]) == sorted(expected)
    assert names[-4:] == list(RUN_ARGUMENTS)
    assert make.__annotations__.keys() == {*names, "return"}
    assert pickle.loads(pickle.dumps(make)) is copy.deepcopy(make) is make
    optimizer = optimizer_of()
    scheduler = make(optimizer, steps=30, steps_per_epoch=10)
    assert isinstance(scheduler, LRScheduler)
    built = function()
    curve = (built or S.constant()).curve(Horizon(30, 10))
    assert trace(optimizer, scheduler, 30) == [curve(t, 0.1) for t in range(30)]


def test_arguments_of_the_schedule_and_of_the_run():
    optimizer = optimizer_of()
    scheduler = lr_schedulers.cosine_warmup(optimizer, "10%", total="2 epochs", steps_per_epoch=10)
    curve = S.cosine_warmup("10%").curve(Horizon(20))
    assert trace(optimizer, scheduler, 20) == [curve(t, 0.1) for t in range(20)]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_a_schedule_and_a_call_are_the_same(name):
    found = []
    built = registry.functions_by_name()[name]()
    for make in (
        lambda o: schedule(o, registry.schedule_name(registry.functions_by_name()[name]), **RUN),
        lambda o: schedule(o, built, **RUN),
        lambda o: (built or S.constant())(optimizer=o, **RUN),
    ):
        optimizer = optimizer_of()
        found.append(trace(optimizer, make(optimizer), 20))
    assert found[0] == found[1] == found[2]


RUN = {"steps": 20, "steps_per_epoch": 5}
#: Whether a schedule depends on the length of the run.
WITHOUT_LENGTH = [
    (S.constant(), True),
    (S.constant_warmup(10), True),
    (S.constant_warmup("10%"), False),
    (S.inverse_sqrt(warmup=5), True),
    (S.inverse_sqrt(), False),
    (S.noam(10), True),
    (S.step(7), True),
    (S.step(), False),
    (S.multistep([3, 9]), True),
    (S.cosine(), False),
    (S.cosine(total=25), True),
    (S.wsd(warmup=5, cooldown=5), False),
    (S.cyclic(step_size_up=4, mode="exp_range", gamma=0.9), True),
    (S.one_cycle(), False),
    (S.one_cycle(total="25"), True),
    (S.plateau(), True),
    (S.greedy(), True),
    (S.lambda_("0.9 ** step"), True),
    (S.lambda_("1 - progress"), False),
    (S.multiplicative("0.9"), True),
    (S.StepLR(3), True),
    (S.CosineAnnealingWarmRestarts(4, T_mult=2), True),
    (S.sequential([S.linear(total=5), S.constant()], [5]), True),
    (S.sequential(), False),
]


@pytest.mark.parametrize(("given", "known"), WITHOUT_LENGTH)
def test_steps_are_needed_only_where_the_schedule_depends_on_them(given, known):
    optimizer = optimizer_of()
    if not known:
        with pytest.raises(UsageError, match="depends on the length of the run: give steps"):
            schedule(optimizer, given)
        return
    scheduler = schedule(optimizer, given)
    steps = given.total or 1000
    curve = given.curve(Horizon(int(steps)))
    assert trace(optimizer, scheduler, 25) == [curve(t, 0.1) for t in range(25)]


def an_optimizer_without_lr():
    class Without(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

    return Without([torch.nn.Parameter(torch.ones(2))])


#: Wrong arguments of `schedule`, and what the one line says.
WRONG = {
    "no steps": (lambda o: schedule(o, S.cosine()), "depends on the length of the run: give steps"),
    "no steps, by name": (lambda o: schedule(o, "wsd"), "depends on the length of the run"),
    "steps 0": (lambda o: schedule(o, S.cosine(), steps=0), "steps must be a whole number > 0"),
    "negative": (lambda o: schedule(o, S.cosine(), steps=-1), "steps must be a whole number > 0"),
    "a fraction": (
        lambda o: schedule(o, S.cosine(), steps=2.5),
        r"such as steps=epochs \* len\(loader\), got 2.5",
    ),
    "text": (lambda o: schedule(o, S.cosine(), steps="100"), "steps must be .*, got '100'"),
    "a bool": (lambda o: schedule(o, S.cosine(), steps=True), "steps must be .*, got True"),
    "a loader": (
        lambda o: schedule(o, S.cosine(), steps=torch.utils.data.DataLoader([1, 2])),
        "steps must be .*, got <torch.utils.data",
    ),
    "epochs": (
        lambda o: schedule(o, S.cosine("2 epochs"), steps=100),
        r"counts epochs: give steps_per_epoch, such as len\(loader\)",
    ),
    "epochs in total": (lambda o: schedule(o, S.cosine(total="2 epochs")), "give steps_per_epoch"),
    "steps per epoch": (
        lambda o: schedule(o, S.cosine("2 epochs"), steps=9, steps_per_epoch=0),
        "steps_per_epoch must be a whole number > 0",
    ),
    "samples": (lambda o: schedule(o, S.cosine("100 samples"), steps=9), "counts samples, which"),
    "too long": (lambda o: schedule(o, S.cosine(50), steps=9), "warmup=50: 50 steps, but the run"),
    "a floor above": (
        lambda o: schedule(o, S.cosine_min_lr(min_lr=1.0), steps=99),
        "min_lr=1 is above the optimizer's lr, 0.1",
    ),
    "no lr": (lambda o: schedule(an_optimizer_without_lr(), "constant"), "Without has no lr that"),
    "swapped": (
        lambda o: schedule(S.cosine(), o, steps=9),
        "the first is a Phases and the second a SGD; they are in the wrong order",
    ),
    "a model": (lambda o: schedule(torch.nn.Linear(1, 1), S.cosine(), steps=9), "got a Linear"),
    "a class": (lambda o: schedule(torch.optim.SGD, S.cosine(), steps=9), "got the class SGD"),
    "a typo": (lambda o: schedule(o, "cosin", steps=9), "unknown schedule 'cosin'; did you mean"),
    "a number": (lambda o: schedule(o, 5, steps=9), "schedule must be a schedule, .*, got 5"),
    "a torch class": (
        lambda o: schedule(o, torch.optim.lr_scheduler.StepLR, steps=9),
        "got the class StepLR; lit_optim.schedules has torch's schedulers by the same names",
    ),
    "a torch scheduler": (
        lambda o: schedule(o, torch.optim.lr_scheduler.StepLR(o, 3), steps=9),
        "got a StepLR; lit_optim.schedules has torch's",
    ),
    "a torch factory": (
        lambda o: schedule(o, partial(torch.optim.lr_scheduler.StepLR, step_size=3)),
        "got a partial of the class StepLR; lit_optim.schedules has torch's",
    ),
    "a class of lr_schedulers": (
        lambda o: schedule(o, lr_schedulers.cosine, steps=9),
        r"takes the optimizer itself: lit_optim.schedules.cosine\(\) is the schedule",
    ),
    "a function": (lambda o: schedule(o, len, steps=9), "got the function len"),
    "horizon": (lambda o: schedule(o, "constant", horizon="x"), "horizon must be one of error"),
    "last_epoch": (lambda o: schedule(o, "constant", last_epoch=-2), "last_epoch must be a whole"),
    "last_epoch of a new one": (
        lambda o: schedule(o, "constant", last_epoch=3),
        "last_epoch=3 resumes, but a group has no initial_lr",
    ),
    "a misspelt argument": (
        lambda o: lr_schedulers.cosine(o, warmpu=3, steps=9),
        "cosine takes no warmpu; did you mean warmup",
    ),
    "an argument by position": (lambda o: S.step(3, 2.0), "gamma must be a number in .0, 1."),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_one_line(name):
    make, message = WRONG[name]
    with pytest.raises(UsageError, match=message) as raised:
        make(optimizer_of())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("steps", [20, np.int64(20), torch.tensor(20)])
def test_whole_numbers_of_any_kind(steps):
    optimizer = optimizer_of()
    assert schedule(optimizer, S.cosine(), steps=steps).curve.total == 20


def test_an_uncalled_schedule_has_its_defaults():
    for given in (S.cosine_warmup, partial(S.cosine_warmup, warmup="5%")):
        optimizer = optimizer_of()
        curve = S.cosine_warmup().curve(Horizon(20))
        scheduler = schedule(optimizer, given, steps=20)
        assert trace(optimizer, scheduler, 20) == [curve(t, 0.1) for t in range(20)]


def tenths(step):
    return 0.9**step


def test_a_function_in_place_of_a_formula():
    """torch's LambdaLR takes one; ours remembers its name, so that it can be saved."""
    for given in (S.LambdaLR(tenths), S.LambdaLR(lr_lambda=tenths), S.lambda_(tenths)):
        optimizer = optimizer_of()
        scheduler = schedule(optimizer, pickle.loads(pickle.dumps(given)))
        assert trace(optimizer, scheduler, 5) == pytest.approx([0.1 * 0.9**t for t in range(5)])
    with pytest.raises(UsageError, match=r"lr_lambda must be a formula, .* or a function of a mod"):
        S.LambdaLR(lambda step: 0.9**step)
