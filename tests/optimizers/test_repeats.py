"""A step that repeats the one before is the step that would be made otherwise."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lit_optim import AdamW
from lit_optim.optimizers.base.elementwise import Elementwise
from lit_optim.optimizers.base.repeats import Repeat
from tests.optimizers.running import WALKS, class_of, made_by

ELEMENTWISE = [name for name in WALKS if issubclass(class_of(name), Elementwise)]


def replace_data(params, optimizer):
    params[0].data = params[0].data.clone()


def replace_gradient(params, optimizer):
    params[1].grad = params[1].grad.t().contiguous().t()


def set_list(params, optimizer):
    optimizer.param_groups[0]["betas"][0] *= 0.5


def replace_parameter(params, optimizer):
    group = optimizer.param_groups[1]
    optimizer.state[params[3]] = optimizer.state.pop(group["params"][0])
    group["params"][0] = params[3]


def load(params, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def set_hyperparameter(key, value):
    given = {key: value}
    return lambda params, optimizer: optimizer.param_groups[0].update(copy.deepcopy(given))


#: What may change between two steps, beside the gradients.
CHANGES = {
    "lr": set_hyperparameter("lr", 0.01),
    "an lr that is a tensor": set_hyperparameter("lr", torch.tensor(0.01)),
    "an lr of a whole number": set_hyperparameter("lr", 1),
    "a weight decay": set_hyperparameter("weight_decay", 0.3),
    "a switch": set_hyperparameter("amsgrad", False),
    "an option": set_hyperparameter("maximize", True),
    "another option": set_hyperparameter("cautious_weight_decay", True),
    "the executor": set_hyperparameter("executor", "torch"),
    "a new key": set_hyperparameter("theirs", [torch.zeros(2)]),
    "a list in place": set_list,
    "the peak": set_hyperparameter("initial_lr", 0.5),
    "data": replace_data,
    "a parameter": replace_parameter,
    "a layout": replace_gradient,
    "no gradient": lambda params, optimizer: setattr(params[0], "grad", None),
    "states": load,
    "a state": lambda params, optimizer: optimizer.state.pop(params[0]),
    "a count": lambda params, optimizer: optimizer.state[params[0]].update(step=9),
    "a tensor of a state": lambda params, optimizer: optimizer.state[params[0]].update(
        {key: x.clone() for key, x in optimizer.state[params[0]].items() if hasattr(x, "clone")}
    ),
    "the order of states": lambda params, optimizer: optimizer.state.update(
        {params[0]: optimizer.state.pop(params[0])}
    ),
    "a state of another": lambda params, optimizer: optimizer.state.update(
        {params[0]: {k: x.t() if k != "step" else x for k, x in optimizer.state[params[1]].items()}}
    ),
    "a group": lambda params, optimizer: optimizer.add_param_group({"params": [params[4]]}),
    "fewer groups": lambda params, optimizer: optimizer.param_groups.pop(),
    "the order": lambda params, optimizer: optimizer.param_groups[0]["params"].reverse(),
    "some of a group": lambda params, optimizer: optimizer.step_parameters(
        optimizer.param_groups[0], [params[0]]
    ),
}


def train(make, change, monkeypatch, repeats=True, steps=9, **settings):
    """All weights after each step, and how many groups were stepped as before."""
    torch.manual_seed(1)
    params = [nn.Parameter(torch.rand(shape)) for shape in ((3, 4), (4, 3), (5,), (5,), (2, 2))]
    groups = [{"params": params[:2]}, {"params": [params[2]], "weight_decay": 0.0}]
    optimizer, seen = make(groups, lr=0.1, **settings), []
    if change is set_list:
        optimizer.param_groups[0]["betas"] = [0.9, 0.99]
    if change is CHANGES["a switch"]:
        optimizer.param_groups[0]["amsgrad"] = False
    with monkeypatch.context() as patch:
        counts = []
        run = Repeat.run
        patch.setattr(
            Repeat, "run", lambda self, owner: counts.append(run(self, owner)) or counts[-1]
        )
        if not repeats:
            patch.setattr(Elementwise, "repeat_step", lambda self, group: False)
        weights = []
        for step in range(steps):
            for p in params:
                p.grad = torch.randn_like(p)
                seen.append(p.grad)  # or the next one has the same address
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
            if step == 5:
                change(params, optimizer)
            optimizer.step()
            weights += [p.detach().clone() for p in params]
    return weights, counts


def assert_equal(make, change, monkeypatch, **settings):
    found, counts = train(make, change, monkeypatch, **settings)
    expected, _ = train(make, change, monkeypatch, repeats=False, **settings)
    assert all(map(torch.equal, found, expected))
    return counts


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_between_two_steps_is_noticed(change, monkeypatch):
    counts = assert_equal(AdamW, CHANGES[change], monkeypatch, decay="independent")
    assert sum(counts) >= 8, "the steps before the change were repeats"


def test_a_number_of_a_state_that_changes_is_noticed(monkeypatch):
    def halve(params, optimizer):
        optimizer.state[params[0]]["mu_product"] *= 0.5

    def make(groups, **settings):
        return made_by("nadam")([{"params": group["params"]} for group in groups], **settings)

    counts = assert_equal(make, halve, monkeypatch)
    assert sum(counts) >= 8


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_repeated_steps_are_those_of_the_rule(name, monkeypatch):
    defaults = made_by(name)([nn.Parameter(torch.rand(3, 4))], lr=0.1).defaults
    decay = {"weight_decay": 0.1} if "weight_decay" in defaults else {}

    def make(groups, **settings):
        plain = [{"params": group["params"]} for group in groups]
        return made_by(name)(plain, **settings, **decay)

    assert_equal(make, lambda params, optimizer: None, monkeypatch)


def test_what_is_repeated(monkeypatch):
    counts = assert_equal(AdamW, lambda params, optimizer: None, monkeypatch)
    assert counts == [True] * 16, "all steps of two groups but the first"
    for key, value in {"hyperball": True, "executor": "torch"}.items():
        settings = {key: value, "weight_decay": 0.0}
        counts = assert_equal(AdamW, lambda params, optimizer: None, monkeypatch, **settings)
        assert not any(counts[::2])


@pytest.mark.parametrize("kind", [AdamW, torch.optim.AdamW])
def test_hooks_and_profilers_see_a_step_as_torchs(kind):
    optimizer = kind([nn.Parameter(torch.ones(2))])
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    assert f"Optimizer.step#{kind.__name__}.step" in [
        event.name for event in profile.function_events
    ]
    handle = optimizer.register_step_pre_hook(lambda *_: ((optimizer, lambda: 7.0), {}))
    assert optimizer.step() == 7.0
    handle.remove()
    optimizer.register_step_pre_hook(lambda *_: "no arguments")
    with pytest.raises(RuntimeError, match="must return None or a tuple of"):
        optimizer.step()
