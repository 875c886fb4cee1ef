"""Options of the walk, by hand around torch's own classes: what they mean, in every executor."""

from __future__ import annotations

import re

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import native_cpu
from lit_optim.kernels.c_source import source
from lit_optim.kernels.trace import trace
from lit_optim.optimizers.options import OPTIONS
from lit_optim.optimizers.walk import Walk
from tests.optimizers.running import (
    NAMES,
    class_of,
    defaults_of,
    difference,
    gradients,
    parameters,
)

PEAK, WD = 0.1, 0.3
LRS = [PEAK * share for share in (0.25, 0.5, 1.0, 0.8, 0.4, 0.1)]
EXECUTORS = ("native", "torch")


def ours(name, executor, **options):
    params = parameters()
    hyper = {"lr": PEAK, "weight_decay": WD, "executor": executor} | options
    optimizer = class_of(name)(params, **hyper)
    for group in optimizer.param_groups:
        group["initial_lr"] = PEAK  # as a schedule leaves it
    for step, lr in enumerate(LRS):
        optimizer.param_groups[0]["lr"] = lr
        gradients(params, step + 5)
        optimizer.step()
    return params


def by_hand(decay):
    """AdamW as Adam without decay, and the decay taken off before it as `decay` says."""
    params = parameters()
    adam = torch.optim.Adam(params, lr=PEAK, foreach=False)
    for step, lr in enumerate(LRS):
        adam.param_groups[0]["lr"] = lr
        gradients(params, step + 5)
        before = [p.detach().clone() for p in params]
        adam.step()
        for p, old in zip(params, before, strict=True):
            p.data -= decay(lr, old, old - p.data)
    return params


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    ("decay", "strength"),
    [
        ("decoupled", lambda lr: lr * WD),
        ("independent", lambda lr: lr / PEAK * WD),
        ("corrected", lambda lr: lr**2 / PEAK * WD),
    ],
    ids=["decoupled", "independent", "corrected"],
)
def test_decay_follows_the_lr_as_asked(decay, strength, executor):
    expected = by_hand(lambda lr, old, moved: strength(lr) * old)
    assert difference(ours("adamw", executor, decay=decay), expected) <= 1e-12


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("decay", ["decoupled", "corrected"])
def test_cautious_decay_leaves_alone_what_moves_away_from_zero(decay, executor):
    def masked(lr, old, moved):
        strength = lr * WD * (1 if decay == "decoupled" else lr / PEAK)
        return strength * old * (moved * old >= 0)  # moved is lr u

    found = ours("adamw", executor, decay=decay, cautious_weight_decay=True)
    assert difference(found, by_hand(masked)) <= 1e-12
    assert difference(found, ours("adamw", executor, decay=decay)) > 1e-3


def after_a_step(cls, **hyper):
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64))
    optimizer = cls([p], **hyper)
    optimizer.param_groups[0]["initial_lr"] = 2 * optimizer.param_groups[0]["lr"]
    p.grad = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    optimizer.step()
    return p


@pytest.mark.parametrize(
    "option", [{"decay": "corrected"}, {"cautious_weight_decay": True}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_an_option_of_decay_is_refused_or_has_an_effect(name, option):
    cls, hyper = class_of(name), defaults_of(class_of(name))
    if not issubclass(cls, Walk):
        return  # torch's own classes take none of the options
    decay = {"weight_decay": 0.3} if "weight_decay" in hyper else {}
    refusal = ""
    try:
        found = after_a_step(cls, **decay, **option)
    except UsageError as error:
        refusal = str(error)
    if refusal:
        assert name not in ("adamw", "adam_weight_decay", "lion")
        assert re.fullmatch(r"\w+=\w+ is for decoupled weight decay, which \w+ .*", refusal)
        return
    assert not torch.equal(found, after_a_step(cls, **decay))


@pytest.mark.parametrize("name", ["nadam", "radam"])
def test_who_may_choose_decoupled_decay_may_choose_how(name):
    cls = class_of(name)
    hyper = {"weight_decay": 0.3, "decoupled_weight_decay": True}
    found = after_a_step(cls, **hyper, decay="corrected")
    assert not torch.equal(found, after_a_step(cls, **hyper))


@pytest.mark.parametrize("key", OPTIONS)
def test_nonsense_is_refused(key):
    with pytest.raises(UsageError, match=f"^{key} must be") as error:
        class_of("adamw")(parameters(), **{key: "sometimes"})
    assert "\n" not in str(error.value)


def test_defaults_cost_nothing(monkeypatch):
    """The kernel without an option is that of the rule alone."""
    found = []
    monkeypatch.setattr(native_cpu, "_kernels", {})
    monkeypatch.setattr(native_cpu, "source", lambda *args: found.append(args) or source(*args))
    adamw = class_of("adamw")(parameters(), executor="native")
    gradients(parameters(), 5)
    for p in adamw.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    adamw.step()
    [(program, _)] = found

    def alone(g, p, s, h):
        return h.a, h.b, *adamw.rule(g, p, s, h)

    h = dict.fromkeys(program.scalars, 0.0) | {"amsgrad": False}
    assert trace(alone, program.states, h) == program
