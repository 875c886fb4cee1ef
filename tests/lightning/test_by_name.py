"""Optimizers and schedules by name in Python, and what a wrong name or keyword is answered."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch

import lit_optim
from lit_optim.config.places import groups, listed_choices, target_of
from lit_optim.config.targets import locate
from lit_optim.errors import UsageError
from lit_optim.optimizers import find_optimizer
from lit_optim.param_groups import by_role, no_decay
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.registry import find_schedule
from tests.lightning.modules import Data, Plain, attach, trainer

SCHEDULES = groups()["scheduler"]


@pytest.mark.parametrize("name", sorted(listed_choices("optimizer")))
def test_an_optimizer_has_the_name_of_the_command_line(name):
    expected = locate("optimizer", target_of(listed_choices("optimizer")[name]))
    assert find_optimizer(name) is find_optimizer(expected.__name__) is expected


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_has_the_name_of_the_command_line(name):
    """With its defaults."""
    expected = locate("scheduler", target_of(SCHEDULES[name]))()
    found = find_schedule(name)
    if expected is None:
        assert found is None
        return
    horizon = Horizon(40, 10, 4)
    curve, reference = found.curve(horizon), expected.curve(horizon)
    assert [curve(t, 0.1) for t in range(40)] == [reference(t, 0.1) for t in range(40)]


def test_a_module_trains_with_names():
    """As with the class and the schedule themselves."""
    weights = []
    for parts in (("sgd", "cosine_warmup"), (lit_optim.SGD, find_schedule("cosine_warmup"))):
        torch.manual_seed(0)
        module = Plain()
        attach(module, *parts)
        trainer(None, max_steps=6).fit(module, Data())
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("adamv", None), "unknown optimizer 'adamv'; did you mean adam or adamw"),
        (("xyzzy", None), "unknown optimizer 'xyzzy'; lit-optim optimizers lists them"),
        (("elementwise", None), "unknown optimizer 'elementwise'"),
        ((" ", None), "unknown optimizer ' '"),
        (
            ("adamw", "cosine_warmpu"),
            "unknown schedule 'cosine_warmpu'; did you mean cosine_w",
        ),
        (("adamw", "schedule"), "unknown schedule 'schedule'"),
    ],
)
def test_wrong_names(tmp_path, parts, message):
    with pytest.raises(UsageError) as refused:
        trainer(tmp_path, max_steps=2).fit(attach(Plain(), *parts), Data())
    assert message in str(refused.value)


FUNCTIONS = {
    name: locate("scheduler", target_of(path)) for name, path in SCHEDULES.items() if name != "none"
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_wrong_keyword_of_a_schedule_is_named(name):
    """Whatever the schedule: not in the words of the class behind it."""
    known = [key for key in inspect.signature(FUNCTIONS[name]).parameters if key != "common"]
    with pytest.raises(UsageError) as refused:
        FUNCTIONS[name](no_such_key=5)
    message = str(refused.value)
    assert message.startswith(f"{FUNCTIONS[name].__name__.rstrip('_')} takes no no_such_key")
    assert all(key in message for key in known)
    wrong = known[0] + "s"
    with pytest.raises(UsageError, match=f"takes no {wrong}.*did you mean.*{known[0]}"):
        FUNCTIONS[name](**{wrong: 5})


@pytest.mark.parametrize("name", ["Muon", "NorMuon", "SOAP", "Shampoo", "Scion"])
def test_a_function_that_creates_a_matrix_optimizer_without_roles_is_refused(tmp_path, name):
    kind = getattr(lit_optim, name)

    def build(params):
        return kind(params, lr=0.01)

    for make in (lambda groups: kind(groups), build):
        with pytest.raises(UsageError, match=rf"{name} updates hidden .* pass .*{name}\(model"):
            trainer(tmp_path, max_steps=2).fit(attach(Plain(), make), Data())
    divided = lambda module: by_role(no_decay(module), module)  # noqa: E731
    for make, param_groups in ((build, divided), (partial(kind, lr=0.01), None), (kind, None)):
        module = attach(Plain(), make, param_groups=param_groups)
        trainer(tmp_path, max_steps=2).fit(module, Data())
        assert len(module.lrs) == 2
