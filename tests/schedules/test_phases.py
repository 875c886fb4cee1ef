"""Lists of phases: properties of every list, and errors."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hypothesis import example, given
from hypothesis import strategies as st

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.compat import torch_schedules
from lit_optim.errors import UsageError
from lit_optim.schedules import library, shapes
from lit_optim.schedules.core import STEP_ALIGNMENTS
from lit_optim.schedules.decays import noam
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.phase_parser import phases

SMOOTH = [*shapes.NAMED, "power(0.3)", "power(3)", "polynomial(2.5)", "exponential(0.01)"]
LENGTHS = st.integers(1, 10**6)
LEVELS = st.floats(1e-3, 2)


@st.composite
def lists(draw):
    """A run, and phases that fit it, each with a start and an end."""
    total = draw(LENGTHS)
    count = draw(st.integers(1, 5))
    given, left = [], total
    for index in range(count):
        phase = {"shape": draw(st.sampled_from(SMOOTH)), "to": draw(LEVELS)}
        if index == 0 or draw(st.booleans()):
            phase["from"] = draw(LEVELS)
        if index < count - 1 and left > 1:
            steps = draw(st.integers(1, left - 1) | st.just(1) | st.just(left - 1))
            phase["for"] = steps
            left -= steps
        if phase.get("for", left) >= 5 and draw(st.booleans()):
            phase["levels"] = draw(st.integers(2, 5))
        given.append(phase)
        if "for" not in phase:
            break
    return total, given


@given(run=lists(), t=st.integers(0, 2 * 10**6), step_alignment=st.sampled_from(["end", "start"]))
def test_properties_of_any_list(run, t, step_alignment):
    """Values are in range, exact at the end of each phase, and constant after the last one."""
    total, given = run
    curve = phases(given, step_alignment=step_alignment).curve(Horizon(total))
    levels = [1.0] + [phase[key] for phase in given for key in ("from", "to") if key in phase]
    assert min(levels) <= curve(t) <= max(levels)
    assert curve(total + t) == curve(total) == given[-1]["to"]
    if step_alignment == "start":
        assert curve(0) == given[0]["from"]
        return
    assert curve(total - 1) == given[-1]["to"]
    end = 0
    for phase in given[:-1]:
        end += phase["for"]
        assert curve(end - 1) == phase["to"]  # where the next one starts, if it says nothing else


@given(
    total=LENGTHS,
    share=st.integers(1, 99),
    shape=st.sampled_from([*SMOOTH, "staircase(3)"]),
    floor=st.floats(1e-4, 0.5),
)
@example(total=506, share=50, shape="linear", floor=0.1)
def test_phases_join_without_jumps(total, share, shape, floor):
    """With a warmup, a stable phase and a cooldown."""
    given = [
        {"shape": "linear", "from": 0, "to": 1, "for": f"{share / 2}%"},
        {"shape": "constant"},
        {"shape": shape, "to": floor, "for": f"{(100 - share) / 2}%"},
    ]
    curve = phases(given).curve(Horizon(total))
    warmup = math.floor(total * share / 200 + 0.5)
    cooldown = math.floor(total * (100 - share) / 200 + 0.5)
    assert curve(0) > 0
    if warmup:
        assert curve(0) == 1 / warmup
        assert curve(warmup - 1) == 1
    if cooldown and warmup + cooldown <= total:
        assert curve(total - cooldown - 1) == 1 or warmup + cooldown == total
        assert curve(total - 1) == floor
        first = curve(total - cooldown)
        if shape != "staircase(3)":
            # what a cooldown of the same length alone makes of its first update
            alone = library.wsd(0, cooldown, shape, floor).curve(Horizon(cooldown))
            assert first == pytest.approx(alone(0), abs=1e-9)


def test_half_a_step_is_rounded_up():
    for steps, half in itertools.product(range(1, 300), range(1, 200)):
        rounded = (half * steps + 100) // 200  # by whole numbers alone
        assert Horizon(steps).resolve("warmup", f"{half / 2}%") == rounded
        horizon = Horizon(1000, samples_per_step=steps)
        assert horizon.resolve("warmup", f"{half} samples") == (2 * half + steps) // (2 * steps)


@pytest.mark.parametrize(("steps", "values"), [(1, [0.1]), (2, [1, 0.1]), (3, [1, 0.55, 0.1])])
def test_a_staircase_of_few_updates_reaches_the_floor(steps, values):
    curve = phases([{"shape": "staircase(3)", "to": 0.1}]).curve(Horizon(steps))
    assert [curve(t) for t in range(steps)] == pytest.approx(values)


@given(total=st.integers(12, 200), parts=st.integers(1, 12))
def test_percentages_of_short_runs_fit(total, parts):
    """Equal percentages differ by at most a step, and the last phase ends with the run."""
    given = [{"shape": "constant", "from": k + 1, "for": f"{100 / parts}%"} for k in range(parts)]
    curve = phases(given).curve(Horizon(total))
    seen = [curve(t) for t in range(total)]
    assert seen == sorted(seen)
    assert seen[-1] == parts
    counts = [seen.count(k + 1) for k in range(parts)]
    assert max(counts) - min(counts) <= 1


@given(
    total=LENGTHS,
    times=st.integers(1, 12),
    growth=st.sampled_from([1, 1.0, 2, 1.5, 3, 1.0625]),
    decay=st.floats(0.1, 1),
    step_alignment=st.sampled_from(STEP_ALIGNMENTS),
    t=st.integers(0, 10**6),
)
def test_rounds_grow_and_decay(total, times, growth, decay, step_alignment, t):
    """The rounds fill the run; each lies between the floor and its own peak."""
    given = [
        {
            "repeat": [{"shape": "cosine", "to": 0.1}],
            "times": times,
            "growth": growth,
            "decay": decay,
            "floor": 0.1,
        }
    ]
    curve = phases(given, step_alignment=step_alignment).curve(Horizon(total))
    t = min(t, total - 1)
    unit = total / sum(growth**k for k in range(times))
    ends = [unit * sum(growth**k for k in range(n + 1)) for n in range(times)]
    near = [n for n, end in enumerate(ends) if t < end + 1e-6]
    sure = [n for n, end in enumerate(ends) if t < end - 1e-6]
    peaks = [0.1 + 0.9 * decay**n for n in {min(near), min(sure, default=times - 1)}]
    assert 0.1 - 1e-12 <= curve(t) <= max(peaks) + 1e-12
    if step_alignment == "end":
        assert curve(total - 1) == pytest.approx(0.1, abs=1e-9)


def lines_of(curve, t):
    """The number of lines of Python that run to compute one value."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        curve(t, 0.1)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "schedule",
    [
        phases(),
        library.step(step_size=1),
        library.cyclic(step_size_up=1, step_size_down=2),
        library.cosine_restarts(cycles=1000, growth=1.0),
        torch_schedules.CosineAnnealingWarmRestarts(T_0=1, T_mult=2),
        torch_schedules.CosineAnnealingWarmRestarts(T_0=1, T_mult=1),
        noam(),
    ],
    ids=["phases", "step", "cyclic", "restarts", "doubling", "equal", "noam"],
)
def test_every_step_takes_constant_time_and_memory(schedule):
    """Counted in lines of code, not in seconds."""
    curve = schedule.curve(Horizon(10**6))
    kept = dict(vars(curve))
    counts = [lines_of(curve, t) for t in (0, 1, 999, 123_456, 999_999, 10**7)]
    fractions = 300  # Python's own, some of whose sums take a few more lines
    assert max(counts) <= min(counts) + fractions
    assert vars(curve) == kept


def test_milestones_are_few():
    assert phases().curve(Horizon(100)).milestones() == [0, 4, 5, 79, 80, 99]
    given = [{"shape": "staircase(4)", "to": 0, "for": 40}, {"shape": "constant"}]
    curve = phases(given).curve(Horizon(50))
    assert curve.milestones() == [0, 9, 10, 19, 20, 29, 30, 39, 40, 49]
    assert library.step(step_size=1).curve(Horizon(10**6)).milestones() == [0, 999_999]


def test_a_phase_starts_where_the_constant_before_it_ended():
    given = [{"shape": "constant", "from": 0.5, "for": 2}, {"shape": "linear", "to": 0}]
    curve = phases(given).curve(Horizon(6))
    assert [curve(t) for t in range(7)] == [0.5, 0.5, 0.375, 0.25, 0.125, 0, 0]


def test_a_phase_starts_where_an_open_ended_phase_stopped():
    given = [{"shape": "inverse_sqrt", "timescale": 1}, {"shape": "linear", "to": 0, "for": 4}]
    curve = phases(given).curve(Horizon(7))
    assert [curve(t) for t in range(2, 7)] == pytest.approx([0.5, 0.375, 0.25, 0.125, 0])


def test_absolute_levels_are_the_same_for_every_group():
    given = [{"shape": "linear", "from": 0.01, "to": 0.02, "for": 2}, {"shape": "cosine", "to": 0}]
    curve = phases(given, absolute=True).curve(Horizon(10))
    for lr in (1.0, 0.1, 0.0):
        assert [curve(0, lr), curve(1, lr), curve(9, lr)] == pytest.approx([0.015, 0.02, 0])


def test_every_shape_is_documented():
    for name in [*shapes.NAMED, *(f"{name}(" for name in [*shapes.NUMBERED, shapes.STAIRCASE])]:
        assert name in phases.__doc__


def test_absolute_levels_need_a_first_level():
    for written in (
        [{"shape": "cosine", "to": 0}],
        [{"repeat": [{"shape": "cosine", "to": 0}], "times": 2}],
    ):
        with pytest.raises(
            UsageError, match=r"\.0\.from must be given, because levels are absolute"
        ):
            phases(written, absolute=True)


def test_levels_override_a_staircase():
    curve = phases([{"shape": "staircase(9)", "levels": 2, "to": 0}]).curve(Horizon(4))
    assert [curve(t) for t in range(4)] == [1, 1, 0, 0]


def test_a_group_with_lr_0_stays_at_0():
    assert phases([{"shape": "exponential", "to": 0.1}]).curve(Horizon(9))(4, 0.0) == 0


def test_phases_after_a_repeat():
    given = [
        {"repeat": [{"shape": "constant"}, {"shape": "linear", "to": 0, "for": "50%"}],
         "times": 2, "for": 8},
        {"shape": "constant", "from": 0.3},
    ]  # fmt: skip
    curve = phases(given).curve(Horizon(10))
    assert [curve(t) for t in range(10)] == [1, 1, 0.5, 0, 1, 1, 0.5, 0, 0.3, 0.3]


COSINE = "{shape: cosine, to: 0}"
#: Whatever else is wrong or missing, a key that there is not is named first.
UNKNOWN_KEYS = {
    f"[{{shape: cosine, to: 0.1, length: 10}}, {COSINE}]": (
        "phases.0", "length", "; did you mean for?",
    ),
    f"[{COSINE}, {{shape: linear, to: 0, fo: 10}}]": ("phases.1", "fo", "; did you mean for"),
    f"[{COSINE}, {COSINE}, {{shape: rex, end: 0}}]": ("phases.2", "end", "; did you mean to?"),
    "[{shape: cosine, target: 0}]": ("phases.0", "target", "; did you mean to?"),
    "[{shape: cosine, xx: 0, to: 0}]": ("phases.0", "xx", " (it takes shape, from, to, for, "),
    f"[{{repeat: [{COSINE}], rounds: 3}}]": ("phases.0", "rounds", "; did you mean times?"),
    f"[{{repeat: [{COSINE}, {{shape: rex, to: 0, duration: 5}}]}}]": (
        "phases.0.repeat.1", "duration", "; did you mean for?",
    ),
}  # fmt: skip
MISTAKES = {
    **{
        written: f"scheduler.{where} has no key {key!r}{hint}"
        for written, (where, key, hint) in UNKNOWN_KEYS.items()
    },
    "[]": "phases must have at least one phase",
    "5": "phases must be a list, got 5",
    "[5]": "phases must be a list, got [5]",
    "[{to: 0}]": "phases.0 must be a phase such as",
    "[{shape: cosin, to: 0}]": "phases.0.shape must be a shape such as cosine or power(1.5), got "
    "'cosin'; did you mean cosine?",
    "[{shape: power, to: 0}]": "got 'power'; did you mean power(...)?",
    "[{shape: power(0), to: 0}]": "phases.0.shape must be a shape",
    "[{shape: power(nan), to: 0}]": "phases.0.shape must be a shape",
    "[{shape: power(-1), to: 0}]": "phases.0.shape must be a shape",
    "[{shape: staircase(1.5), to: 0}]": "phases.0.shape must be a shape",
    "[{shape: 5, to: 0}]": "phases.0.shape must be text such as linear",
    "[{shape: cosine}]": "phases.0.to must be given",
    "[{shape: cosine, to: -1}]": "phases.0.to must be a number >= 0, got -1",
    "[{shape: cosine, to: nan}]": "phases.0.to must be a number >= 0, got nan",
    "[{shape: cosine, to: inf}]": "phases.0.to must be a number >= 0, got inf",
    "[{shape: cosine, to: 5%}]": "phases.0.to must be a number >= 0, got '5%'",
    "[{shape: cosine, too: 0}]": "scheduler.phases.0 has no key 'too'; did you mean to?",
    "[{shape: cosine, to: 0, for: 0}]": "phases.0.for must be more than 0, got 0",
    "[{shape: cosine, to: 0, for: -5}]": "phases.0.for must be a whole number or text such as 500",
    "[{shape: cosine, to: 0, for: 2 weeks}]": "phases.0.for must be a whole number or text such as",
    "[{shape: cosine, to: 0, for: 0.5}]": "phases.0.for must be a whole number or text such as 500",
    "[{shape: cosine, to: 0, for: 5000}]": "phases.0.for=5000: 5000 steps, but the run has 4000",
    "[{shape: constant, for: 60%}, {shape: cosine, to: 0, for: 50%}]": "phases.1.for=50%: 2000 "
    "steps, but the run has 4000 and 2400 of them are taken",
    "[{shape: constant, to: 0}]": "phases.0: a constant has one level",
    f"[{COSINE}, {COSINE}]": "phases.0 and phases.1 have no `for`: only one phase can",
    "[{shape: exponential, to: 0}]": "phases.0.shape=exponential decays by a factor",
    "[{shape: inverse_sqrt, from: 0, to: 1}]": "phases.0.shape=inverse_sqrt decays by a factor",
    "[{shape: cosine, to: 0, timescale: 5}]": "phases.0.timescale is for {shape: inverse_sqrt",
    "[{shape: cosine, to: 0, levels: 1}]": "phases.0.levels must be a whole number > 1, got 1",
    "[{shape: null, to: 0}]": "phases.0 must be a phase such as",
    "[{shape: cosine, to: null}]": "phases.0.to must be given",
    "[{repeat: null}]": "phases.0 must be a phase such as",
    "[{repeat: 3}]": "phases.0.repeat must be a list, got 3",
    "[{repeat: []}]": "phases.0.repeat must have at least one phase",
    f"[{{repeat: [{COSINE}]}}]": "phases.0.repeat.0.for must be given, or `times` in the repeat",
    f"[{{repeat: [{COSINE}], times: 0}}]": "phases.0.times must be a whole number > 0, got 0",
    f"[{{repeat: [{COSINE}], times: 2, growth: 0.5}}]": "phases.0.growth must be a number >= 1",
    f"[{{repeat: [{COSINE}], times: 2, decay: 2}}]": "phases.0.decay must be a number in (0, 1]",
    f"[{{repeat: [{COSINE}], times: 99, growth: 3}}]": "99 rounds that grow by 3 do not fit",
    f"[{{repeat: [{{repeat: [{COSINE}]}}]}}]": "phases.0.repeat.0: a repeat cannot contain",
    "[{repeat: [{shape: cosine, to: 0, for: 9}], times: 2}]": "phases.0.repeat.0.for must be a %",
    "[{repeat: [{shape: cosine, to: 0, for: 9%}], times: 2}]": "a round must add up to 100%",
}


@pytest.mark.sampled(20)
@pytest.mark.parametrize("written", MISTAKES)
def test_a_mistake_is_an_error_in_one_line(written):
    with pytest.raises(UsageError) as error:
        prepare_command_line(["scheduler=phases", f"scheduler.phases={written}"])
    assert str(error.value).startswith("scheduler.")
    assert MISTAKES[written] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", ["1-sqrt", "power(0.3)", "staircase(4)", "power 2"])
def test_a_shape_needs_only_the_quotes_of_the_shell(shape):
    def given_to_hydra(*argv):
        argv = prepare_command_line([*argv, "scheduler.min_lr_ratio=0.1"]).argv
        [line] = [line for line in argv if line.startswith("++scheduler.shape=")]
        [override] = OverridesParser.create().parse_overrides([line])
        values = override.value()
        values = values.list if isinstance(values, ChoiceSweep) else [values]
        return [getattr(value, "text", value) for value in values]

    assert given_to_hydra("scheduler=wsd", f"scheduler.shape={shape}") == [shape]
    swept = given_to_hydra("-m", "scheduler=wsd", f"scheduler.shape={shape},linear")
    assert swept == [shape, "linear"]
    listed = f"[{{shape: {shape}, from: 1, to: 0.1, for: 50%}}, {{shape: constant}}]"
    argv = prepare_command_line(["scheduler=phases", f"scheduler.phases={listed}"]).argv
    [line] = [line for line in argv if line.startswith("++scheduler.phases=")]
    [override] = OverridesParser.create().parse_overrides([line])
    assert override.value()[0]["shape"] == shape


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["cosine_min_lr", "min_lr=0.5"], "scheduler.min_lr=0.5 is above the optimizer's lr, 0.01"),
        (["plateau", "min_lr=0.5"], "scheduler.min_lr=0.5 is above the optimizer's lr, 0.01"),
        (["greedy", "min_lr=0.5"], "scheduler.min_lr=0.5 is above the optimizer's lr, 0.01"),
        (["greedy", "max_lr=1e-3"], "scheduler.max_lr=0.001 is below the optimizer's lr, 0.01"),
        (["CosineAnnealingLR", "eta_min=1"], "scheduler.eta_min=1 is above the optimizer's lr"),
        (["CyclicLR", "base_lr=1"], "scheduler.base_lr=1 is above the optimizer's lr"),
        (
            ["sequential", "schedules=[{name: linear}, {name: cosine_min_lr, min_lr: 1}]"],
            "scheduler.schedules.1.min_lr=1 is above the optimizer's lr",
        ),
    ],
    ids=lambda typed: " ".join(typed) if isinstance(typed, list) else "",
)
def test_a_floor_above_the_peak_is_an_error(typed, message):
    name, *keys = typed
    with pytest.raises(UsageError) as error:
        prepare_command_line(
            [f"scheduler={name}", "optimizer.lr=0.01", *(f"scheduler.{key}" for key in keys)]
        )
    assert message in str(error.value)
