"""Options of the walk, by hand around torch's own classes: what they mean, in every executor."""

from __future__ import annotations

import re

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import cpu
from lit_optim.kernels.codegen.c import generate_c
from lit_optim.kernels.ir import trace_rule
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.options import HOW, OF_DECAY, OPTIONS
from tests.optimizers.running import (
    NAMES,
    class_of,
    defaults_of,
    difference,
    gradients,
    made_by,
    parameters,
)

PEAK, WD = 0.1, 0.3
LRS = [PEAK * share for share in (0.25, 0.5, 1.0, 0.8, 0.4, 0.1)]
EXECUTORS = ("native", "torch")


def ours(name, executor, **options):
    params = parameters()
    hyper = {"lr": PEAK, "weight_decay": WD, "executor": executor} | options
    optimizer = made_by(name)(params, **hyper)
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


def after_steps(cls, dtype=torch.float32, **hyper):
    """A parameter and its states; gradients change their signs, and one is 0."""
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.5]], dtype=dtype))
    lr = {"lr": 0.05} if defaults_of(cls)["lr"] else {}
    optimizer = cls([p], executor="torch", **lr, **hyper)
    optimizer.param_groups[0]["initial_lr"] = 2 * optimizer.param_groups[0]["lr"]
    for step in range(4):
        p.grad = torch.sin(torch.arange(6.0) * (step + 1)).view(2, 3).to(dtype)
        optimizer.step()
    return p, {k: x.dtype for k, x in optimizer.state[p].items() if torch.is_tensor(x)}


NO_DECAY = "(is for decoupled weight decay, which|changes a weight decay that)"
#: how it is refused, and who does not refuse it, among others
EFFECTS = {
    ("maximize", True): ("", NAMES),
    ("decay", "corrected"): (NO_DECAY, {"adamw", "lion"}),
    ("decay", "independent"): (NO_DECAY, {"adamw", "lion"}),
    ("cautious_weight_decay", True): (NO_DECAY, {"adamw", "lion"}),
    ("cautious", True): ("changes a step that", {"adamw", "lion", "sgd", "rmsprop"}),
    ("clip_update", 1e-3): ("changes a step that", {"adamw", "lion", "sgd", "rmsprop"}),
    ("trust_ratio", True): ("changes a step that", {"adamw", "lion", "sgd", "rmsprop"}),
    ("hyperball", True): ("changes a step that", {"adamw", "lion", "sgd", "rmsprop"}),
    ("state_dtype", "bfloat16"): ("is for optimizers that look at one", {"adamw", "rprop"}),
    ("state_dtype", "int8"): ("is for optimizers that look at one", {"adamw", "rprop"}),
    ("master", "split"): ("is for optimizers that look at one", {"adamw", "sgd", "asgd"}),
}
#: who has no state that could be stored otherwise
STATELESS = {"sgd", "asgd", "schedule_free_sgd"}


@pytest.mark.parametrize("option", EFFECTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_an_option_is_refused_or_has_an_effect(name, option):
    cls, hyper = class_of(name), defaults_of(class_of(name))
    if not issubclass(cls, OptimizerBase):
        return  # torch's own classes take none of the options
    (key, value), (refusal, takers) = option, EFFECTS[option]
    if key == "state_dtype" and name in STATELESS:
        return
    given = {"weight_decay": 0.3} if key in OF_DECAY and "weight_decay" in hyper else {}
    if key == "hyperball" and "weight_decay" in hyper:
        given = {"weight_decay": 0.0}
    if name == "prodigy":
        given["d0"] = 0.1  # its first steps are else too small to tell
    dtype = torch.bfloat16 if key == "master" else torch.float32
    refused = ""
    try:
        found = after_steps(cls, dtype, **given, **{key: value})
    except UsageError as error:
        refused = str(error)
    if refused:
        assert name not in takers
        assert re.fullmatch(rf"{key}={value} {refusal} .+", refused)
        return
    (p, states), (q, plain) = found, after_steps(cls, dtype, **given)
    assert torch.isfinite(p).all()
    assert states != plain if key in HOW else not torch.equal(p, q)


def test_every_option_is_tried():
    assert {key for key, _ in EFFECTS} == OPTIONS.keys() - {"executor"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust_ratio": True, "weight_decay": 0.0}, "hyperball=True and trust_ratio=True both"),
        ({"weight_decay": 0.1}, "hyperball=True keeps the norm .* must be 0, got 0.1"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    for make in (
        lambda: class_of("adamw")(parameters(), hyperball=True, **options),
        lambda: class_of("adamw")([{"params": parameters(), "hyperball": True, **options}]),
    ):
        with pytest.raises(UsageError, match=f"^{message}") as error:
            make()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["adam", "nadam", "radam"])
def test_who_may_choose_decoupled_decay_may_choose_how(name):
    cls = class_of(name)
    hyper = {"weight_decay": 0.3, "decoupled_weight_decay": True}
    found, _ = after_steps(cls, **hyper, decay="corrected")
    assert not torch.equal(found, after_steps(cls, **hyper)[0])


@pytest.mark.parametrize("key", OPTIONS)
def test_nonsense_is_refused(key):
    with pytest.raises(UsageError, match=f"^{key} must be") as error:
        class_of("adamw")(parameters(), **{key: "sometimes"})
    assert "\n" not in str(error.value)


def test_defaults_cost_nothing(monkeypatch):
    """The kernel without an option is that of the rule alone."""
    found = []
    monkeypatch.setattr(cpu, "_kernels", {})
    monkeypatch.setattr(cpu, "generate_c", lambda *args: found.append(args) or generate_c(*args))
    adamw = class_of("adamw")(parameters(), executor="native")
    gradients(parameters(), 5)
    for p in adamw.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    adamw.step()
    [(program, *_)] = found

    def alone(g, p, s, h):
        return h.a, h.b, *adamw.rule(g, p, s, h)

    h = dict.fromkeys(program.scalars, 0.0) | {"amsgrad": False}
    assert trace_rule(alone, program.states, h) == program
