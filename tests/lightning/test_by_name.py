"""Optimizers and schedules by name in Python, and how a wrong name or keyword is reported."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from torch import nn

import lit_optim
from lit_optim.config.places import groups, listed_choices, target_of
from lit_optim.config.targets import locate
from lit_optim.errors import UsageError
from lit_optim.optimizers import find_optimizer
from lit_optim.param_groups import by_role, no_decay
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.registry import find_schedule
from lit_optim.wrappers import Ema, Lookahead, Wrapped
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


def roles_of(optimizer):
    return [(g["name"], g["role"], g["param_names"]) for g in optimizer.param_groups]


class Callable:
    """An object that makes an optimizer, as frameworks pass them around."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, params):
        return self.kind(params, lr=0.01)


#: Makes the optimizer of a class in the ways in which people write it.
MADE = {
    "class": lambda kind: kind,
    "partial": lambda kind: partial(kind, lr=0.01),
    "lambda": lambda kind: lambda groups: kind(groups, lr=0.01),
    "partial of a function": lambda kind: partial(lambda groups, lr: kind(groups, lr=lr), lr=0.01),
    "object": Callable,
    "wrapper": lambda kind: lambda groups: Ema(kind(groups, lr=0.01)),
    "wrapped": lambda kind: Wrapped(lambda groups: kind(groups, lr=0.01), Ema),
    "two wrappers": lambda kind: lambda groups: Ema(Lookahead(kind(groups, lr=0.01))),
}


@pytest.mark.parametrize("ways", MADE.values(), ids=MADE)
@pytest.mark.parametrize("name", ["Muon", "NorMuon", "SOAP", "Shampoo", "Scion"])
def test_roles_are_asked_of_the_optimizer_that_was_made(tmp_path, name, ways):
    kind, module = getattr(lit_optim, name), Plain()
    run = trainer(tmp_path, max_steps=2)
    run.fit(attach(module, ways(kind)), Data())
    [optimizer] = run.optimizers
    assert roles_of(optimizer) == roles_of(kind(by_role(no_decay(module), module)))


class Matrices(Plain):
    """No biases: every parameter could be a hidden matrix, but embedding and head are not."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Embedding(7, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
        ).double()

    def training_step(self, batch, batch_idx):
        return self.net((batch[0] > 0).long()).square().mean()


@pytest.mark.parametrize("ways", MADE.values(), ids=MADE)
def test_embedding_and_head_are_not_hidden(tmp_path, ways, caplog):
    run = trainer(tmp_path, max_steps=2)
    run.fit(attach(Matrices(), ways(lit_optim.Muon)), Data())
    roles = [group["role"] for group in run.optimizers[0].param_groups]
    assert roles == ["embedding", "hidden", "head"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("module", [Plain, Matrices])
def test_a_function_that_drops_the_roles_is_refused(tmp_path, module):
    def flat(groups):
        return lit_optim.Muon([p for group in groups for p in group["params"]], lr=0.01)

    with pytest.raises(UsageError, match="must pass them on as they are") as refused:
        trainer(tmp_path, max_steps=2).fit(attach(module(), flat), Data())
    assert "\n" not in str(refused.value)


def test_groups_with_roles_are_taken_as_they_are(tmp_path):
    module = Plain()
    divided = by_role(no_decay(module), module)
    module = attach(module, lambda g: lit_optim.Muon(g, lr=0.01), param_groups=lambda m: divided)
    run = trainer(tmp_path, max_steps=2)
    run.fit(module, Data())
    assert [g["params"] for g in run.optimizers[0].param_groups] == [g["params"] for g in divided]
