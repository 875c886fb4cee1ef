"""Properties of every schedule; test_counterparts.py compares their values."""

from __future__ import annotations

import inspect
import math

import pytest
from hydra.utils import get_method
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lit_optim.compat import transformers_schedules
from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from lit_optim.schedules import library
from lit_optim.schedules.core import STEP_ALIGNMENTS, Schedule
from lit_optim.schedules.durations import Horizon

NAMES = sorted(set(groups()["scheduler"]) - {"none"})
HOUSE = [
    name
    for name in NAMES
    if "_names" not in str(OmegaConf.load(groups()["scheduler"][name])._target_)
]


def function_of(name):
    return get_method(OmegaConf.load(groups()["scheduler"][name])._target_)


def values(schedule, total, count=None):
    curve = schedule.curve(Horizon(total))
    return [curve(t) for t in range(count or total)]


def test_step_jumps_at_the_same_update_with_each_step_alignment():
    for step_alignment in ("end", "start"):
        assert values(library.step(step_size=2, gamma=0.5, step_alignment=step_alignment), 6) == [
            1,
            1,
            0.5,
            0.5,
            0.25,
            0.25,
        ]


def test_first_and_last_values_with_each_step_alignment():
    end = library.cosine_warmup(warmup=4, min_lr_ratio=0.1)
    start = library.cosine_warmup(warmup=4, min_lr_ratio=0.1, step_alignment="start")
    assert values(end, 20)[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values(end, 20, 25)[19:] == [0.1] * 6
    assert values(start, 20)[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert values(start, 20)[19] > 0.1
    assert values(start, 20, 25)[20:] == [0.1] * 5


FALLING = ("linear", "linear_warmup", "cosine", "cosine_warmup", "polynomial", "power_decay")
WARMING = [name for name in HOUSE if "warmup" in inspect.signature(function_of(name)).parameters]


@given(
    name=st.sampled_from(sorted(set(WARMING) - {"one_cycle", "greedy"})),
    total=st.integers(1, 10**6),
    warmup=st.integers(0, 10**6),
    t=st.integers(0, 2 * 10**6),
)
def test_properties(name, total, warmup, t):
    """The first lr is above 0, all are in [0, 1], without jumps, and the last one stays."""
    # durations that would not fit beside any warmup
    more = {"wsd": {"cooldown": 0}, "powercool": {"cooldown": 0}, "cosine_inf": {"hold": 0}}
    more |= {"multistep": {"milestones": [max(total - 1, warmup)]}}
    schedule = function_of(name)(warmup=warmup, **more.get(name, {}))
    if warmup > total:
        with pytest.raises(UsageError, match=r"^warmup="):
            schedule.curve(Horizon(total))
        return
    curve = schedule.curve(Horizon(total))
    # a run of one update ends where it starts, and so does one that is cut into cycles of one
    assert curve(0) > 0 or (warmup == 0 and total <= 4)
    assert 0 <= curve(t) <= 1
    assert curve(total + t) == curve(total - 1)
    if warmup:
        assert curve(warmup - 1) == 1
    if name in FALLING and warmup < total:
        assert curve(total - 1) == 0
        assert abs(curve(t) - curve(t + 1)) <= 2 / max(1, min(warmup or total, total - warmup))


@given(total=st.integers(1, 10**6), cooldown=st.integers(0, 10**6), t=st.integers(0, 10**6))
def test_wsd_is_stable_until_its_cooldown(total, cooldown, t):
    schedule = library.wsd(warmup=0, cooldown=cooldown, min_lr_ratio=0.2)
    if cooldown > total:
        with pytest.raises(UsageError, match=r"^cooldown="):
            schedule.curve(Horizon(total))
        return
    curve = schedule.curve(Horizon(total))
    if t < total - cooldown:
        assert curve(t) == 1
    elif cooldown:
        assert 0.2 <= curve(t) < 1
        assert curve(total - 1) == 0.2


@given(
    total=st.integers(1, 10**5),
    cycles=st.integers(1, 20),
    step_alignment=st.sampled_from(STEP_ALIGNMENTS),
)
def test_restarts_have_the_given_number_of_cycles(total, cycles, step_alignment):
    """The lr decays within each cycle, and rises only between two cycles."""
    curve = library.cosine_restarts(cycles=cycles, warmup=0, step_alignment=step_alignment).curve(
        Horizon(total)
    )
    if total < 3 * cycles:
        return
    seen = [curve(t) for t in range(total)] if total < 2000 else []
    rises = [t for t in range(1, len(seen)) if seen[t] > seen[t - 1]]
    assert not seen or len(rises) == cycles - 1
    for rise, k in zip(rises, range(1, cycles), strict=True) if seen else ():
        assert rise == math.ceil(k * total / cycles)


@pytest.mark.parametrize("name", NAMES)
def test_short_runs_work_with_the_defaults(name):
    shortest = 5 if name in ("ConstantLR", "LinearLR", "PolynomialLR") else 1  # torch's lengths
    for total in range(shortest, 12):
        schedule = function_of(name)()
        assert all(0 <= value <= 1 for value in values(schedule, total)), total


@pytest.mark.parametrize("name", NAMES)
def test_the_first_update_trains_with_the_defaults(name):
    assert values(function_of(name)(), 1000)[0] > 0


@pytest.mark.parametrize("name", sorted(groups()["scheduler"]))
def test_defaults_of_yaml_and_function_are_the_same(name):
    node = OmegaConf.to_container(OmegaConf.load(groups()["scheduler"][name]))
    function = get_method(node.pop("_target_"))
    parameters = inspect.signature(function).parameters
    counting = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    common = (
        {"total": Schedule.total, "step_alignment": Schedule.step_alignment} if counting else {}
    )
    defaults = {
        key: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for key, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert node == defaults | common


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"greedy", "plateau"}))
def test_momentum_is_lowest_where_the_lr_is_highest(name):
    """In schedules that also set momentum."""
    curve = function_of(name)().curve(Horizon(1000))
    if name == "cyclic":
        assert not curve.hyperparameter_curves
        curve = library.cyclic(momentum=[0.8, 0.9]).curve(Horizon(1000))
    if not curve.hyperparameter_curves:
        assert name not in ("one_cycle", "OneCycleLR", "CyclicLR")
        return
    momentum = curve.hyperparameter_curves["momentum"]
    lrs = [curve(t) for t in range(1000)]
    top = lrs.index(max(lrs))
    assert momentum(top) == min(momentum(t) for t in range(1000)) < momentum(0)


def test_milestones_must_increase_and_fit():
    with pytest.raises(UsageError, match=r"milestones must increase, got 10% after 50 steps"):
        library.multistep(milestones=["50%", "10%"]).curve(Horizon(100))
    with pytest.raises(UsageError, match=r"milestones=500: 500 steps, but the run has 100"):
        library.multistep(milestones=[20, 500]).curve(Horizon(100))


def test_a_floor_given_twice_is_an_error():
    with pytest.raises(UsageError, match=r"min_lr=0.1 and min_lr_ratio=0.2: give only one of them"):
        library.cosine_min_lr(min_lr=0.1, min_lr_ratio=0.2)
    with pytest.raises(UsageError, match="give only one of them"):
        transformers_schedules.cosine_with_min_lr(min_lr=0.1, min_lr_rate=0.1)


def test_fractions_of_transformers_are_rounded_up():
    """TrainingArguments' warmup_ratio: ceil(T * ratio)."""
    for schedule in (
        transformers_schedules.constant_with_warmup(num_warmup_steps=0.05),
        library.constant_warmup(warmup="5%+", step_alignment="start"),
    ):
        curve = schedule.curve(Horizon(101))
        assert curve(5) < 1 == curve(6)
    for total in range(1, 1000):  # to the bit: 70 * 0.1 is a little more than 7
        for percent in (1, 3, 7, 10, 12.5):
            ceil = math.ceil(total * (percent / 100))
            assert Horizon(total).resolve("warmup", f"{percent}%+") == ceil


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
    "bad",
    [
        -1,
        1.5,
        "abc",
        "5 %%",
        "101%",
        "5+",
        "5 epochs+",
        "1.5 steps",
        True,
        "-5%",
        "",
        "nan",
        "2 weeks",
    ],
)
def test_invalid_values_are_an_error_in_one_line(bad):
    with pytest.raises(
        UsageError, match=r"^warmup must be a whole number or text such as 500"
    ) as error:
        library.cosine_warmup(warmup=bad)
    assert "\n" not in str(error.value)


def test_schedules_that_do_not_fit_are_an_error():
    with pytest.raises(UsageError, match="warmup=500: 500 steps, but the run has 100"):
        library.cosine_warmup(warmup=500).curve(Horizon(100))
    with pytest.raises(UsageError, match="epochs have no known length"):
        library.cosine_warmup(warmup="2 epochs").curve(Horizon(100))
    with pytest.raises(UsageError, match="min_lr_ratio must be a number in"):
        library.cosine_warmup(min_lr_ratio=1.5)
    with pytest.raises(UsageError, match="total must be steps, epochs or samples > 0"):
        library.linear(total=0)
    with pytest.raises(UsageError, match="step_alignment must be one of end, start, both"):
        library.linear(step_alignment="middle")
    for bad in (0, -5, 2.5, math.inf, True):
        with pytest.raises(UsageError, match="whole number of steps > 0"):
            Horizon(bad)
