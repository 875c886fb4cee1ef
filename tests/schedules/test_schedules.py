"""Schedules against torch and transformers' formulas, and what must hold for each of them."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hydra.utils import get_method
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.optim import lr_scheduler

from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from lit_optim.schedules import library
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.phases import Schedule

NAMES = sorted(set(groups()["scheduler"]) - {"none"})


def function_of(name):
    return get_method(OmegaConf.load(groups()["scheduler"][name])._target_)


def values(schedule, total, count=None):
    curve = schedule.curve(Horizon(total))
    return [curve(t) for t in range(count or total)]


# The formulas of transformers.optimization (v5), t updates done, W warmup, T total


def hf_linear(t, warmup, total):
    return t / max(1, warmup) if t < warmup else max(0, (total - t) / max(1, total - warmup))


def hf_cosine(t, warmup, total):
    if t < warmup:
        return t / max(1, warmup)
    return max(0, 0.5 * (1 + math.cos(math.pi * (t - warmup) / max(1, total - warmup))))


def hf_constant_with_warmup(t, warmup, total):
    return t / max(1, warmup) if t < warmup else 1.0


#: name -> their formula and our setting that equals it; "start" is their way to count
TRANSFORMERS = {
    "linear": (hf_linear, lambda w: library.linear(warmup=w, ticks="start")),
    "cosine_warmup": (hf_cosine, lambda w: library.cosine_warmup(warmup=w, ticks="start")),
    "constant": (hf_constant_with_warmup, lambda w: library.constant(warmup=w, ticks="start")),
}
#: name -> torch's scheduler for an optimizer and a length, and our setting that equals it
TORCH = {
    "step": (
        lambda o, total: lr_scheduler.StepLR(o, step_size=3, gamma=0.5),
        library.step(step_size=3, gamma=0.5),
    ),
    "cosine_warmup": (
        lambda o, total: lr_scheduler.CosineAnnealingLR(o, T_max=total, eta_min=0.1),
        library.cosine_warmup(warmup=0, min_lr_ratio=0.1, ticks="start"),
    ),
    "linear": (
        lambda o, total: lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=total),
        library.linear(min_lr_ratio=0.25, ticks="start"),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_has_a_reference(name):
    assert name in TRANSFORMERS.keys() | TORCH.keys(), f"pair {name} with a counterpart here"


@pytest.mark.parametrize("total", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_equals_transformers(name, share, total):
    theirs, ours = TRANSFORMERS[name]
    warmup = int(share * total)
    expected = [theirs(t, warmup, total) for t in range(total)]
    assert values(ours(warmup), total) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("total", [1, 5, 64])
@pytest.mark.parametrize("name", TORCH)
def test_equals_torch(name, total):
    theirs, ours = TORCH[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer, total)
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert values(ours, total) == pytest.approx(expected, abs=1e-12)


def test_step_jumps_at_the_same_update_under_both_ticks():
    for ticks in ("end", "start"):
        assert values(library.step(step_size=2, gamma=0.5, ticks=ticks), 6) == [
            1,
            1,
            0.5,
            0.5,
            0.25,
            0.25,
        ]


def test_ends_under_both_ticks():
    end = library.cosine_warmup(warmup=4, min_lr_ratio=0.1)
    start = library.cosine_warmup(warmup=4, min_lr_ratio=0.1, ticks="start")
    assert values(end, 20)[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values(end, 20, 25)[19:] == [0.1] * 6
    assert values(start, 20)[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert values(start, 20)[19] > 0.1
    assert values(start, 20, 25)[20:] == [0.1] * 5


@given(
    name=st.sampled_from(NAMES),
    total=st.integers(1, 10**6),
    warmup=st.integers(0, 10**6),
    t=st.integers(0, 2 * 10**6),
)
def test_properties(name, total, warmup, t):
    """The first update trains, nothing leaves [0, 1], joins meet, and the end is held."""
    schedule = function_of(name)(warmup=warmup)
    if warmup > total:
        with pytest.raises(UsageError, match=r"^warmup="):
            schedule.curve(Horizon(total))
        return
    if name == "step":
        schedule = function_of(name)(warmup=warmup, step_size=max(1, total // 3))
    curve = schedule.curve(Horizon(total))
    assert curve(0) > 0 or (total == 1 and warmup == 0)  # a run of one update ends where it starts
    assert 0 <= curve(t) <= 1
    assert curve(total + t) == curve(total - 1)
    if warmup:
        assert curve(warmup - 1) == 1
    if name in ("linear", "cosine_warmup") and warmup < total:
        assert curve(total - 1) == 0
        assert abs(curve(t) - curve(t + 1)) <= 2 / max(1, min(warmup or total, total - warmup))


@pytest.mark.parametrize("name", NAMES)
def test_short_runs_work_with_the_defaults(name):
    for total in (1, 2, 3, 5):
        assert all(0 <= value <= 1 for value in values(function_of(name)(), total))


@pytest.mark.parametrize("name", sorted(groups()["scheduler"]))
def test_defaults_of_yaml_and_function_are_the_same(name):
    node = dict(OmegaConf.load(groups()["scheduler"][name]))
    target = node.pop("_target_")
    function = get_method(target)
    common = {} if name == "none" else {"total": Schedule.total, "ticks": Schedule.ticks}
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert node == defaults | common


def test_units():
    horizon = Horizon(1000, steps_per_epoch=40, samples_per_step=50)
    for duration, steps in [
        (500, 500),
        ("500", 500),
        ("500 steps", 500),
        ("5%", 50),
        ("10 %", 100),
        ("0.05%", 1),
        ("2 epochs", 80),
        ("1 epoch", 40),
        ("0.5 epochs", 20),
        ("1000 samples", 20),
    ]:
        assert horizon.resolve("warmup", duration) == steps


@pytest.mark.parametrize(
    "bad", [-1, 1.5, "abc", "5 %%", "101%", "1.5 steps", True, "-5%", "", "nan", "2 weeks"]
)
def test_nonsense_is_answered_in_one_line(bad):
    with pytest.raises(
        UsageError, match=r"^warmup must be a whole number or text such as 500"
    ) as error:
        library.cosine_warmup(warmup=bad)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="warmup=500: 500 steps, but the run has 100"):
        library.cosine_warmup(warmup=500).curve(Horizon(100))
    with pytest.raises(UsageError, match="epochs have no known length"):
        library.cosine_warmup(warmup="2 epochs").curve(Horizon(100))
    with pytest.raises(UsageError, match="min_lr_ratio must be a number in"):
        library.cosine_warmup(min_lr_ratio=1.5)
    with pytest.raises(UsageError, match="total must be steps, epochs or samples > 0"):
        library.linear(total=0)
    with pytest.raises(UsageError, match="ticks must be one of end, start"):
        library.linear(ticks="middle")
    for bad in (0, -5, 2.5, math.inf, True):
        with pytest.raises(UsageError, match="whole number of steps > 0"):
            Horizon(bad)
