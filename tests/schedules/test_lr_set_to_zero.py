"""If other code sets an lr, also to 0, the schedule continues relative to it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_optim.compat import torch_schedules
from lit_optim.optimizers.adamw import AdamW
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import constant, cosine, inverse_sqrt, linear, wsd
from lit_optim.schedules.metric_schedules import plateau

STEPS = 16
HORIZON = Horizon(STEPS)
OWN = (0.1, 0.02)
#: Of each its values are above 0 before the end, but at the start of a warmup.
SCHEDULES = {
    "constant": constant(),
    "linear": linear(),
    "cosine with warmup": cosine(warmup=3),
    "wsd": wsd(),
    "inverse_sqrt": inverse_sqrt(warmup=2),
    "StepLR": torch_schedules.StepLR(4, 0.5),
    "ExponentialLR": torch_schedules.ExponentialLR(0.9),
}
#: Update, group, and the lr that it is set to.
CHANGES = st.dictionaries(
    st.tuples(st.integers(0, STEPS - 2), st.integers(0, 1)),
    st.one_of(st.just(0.0), st.floats(1e-4, 10.0)),
    max_size=8,
)


def made(schedule, tensors=False):
    params = [torch.nn.Parameter(torch.ones(2)) for _ in OWN]
    lrs = [torch.tensor(lr, dtype=torch.float64) if tensors else lr for lr in OWN]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, lrs, strict=True)]
    optimizer = AdamW(groups)
    return optimizer, ScheduledLR(optimizer, schedule.curve(HORIZON))


def set_lr(group, value):
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value


def resumed(optimizer, scheduler, schedule, tensors):
    again, other = made(schedule, tensors)
    states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    again.load_state_dict(states[0])
    other.load_state_dict(states[1])
    return again, other


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=25, deadline=None)
@given(
    changes=CHANGES,
    cut=st.integers(0, STEPS - 2),
    how=st.sampled_from(["whole", "resumed", "copied"]),
    tensors=st.booleans(),
)
def test_later_lrs_are_relative_to_an_lr_that_was_set(name, changes, cut, how, tensors):
    schedule = SCHEDULES[name]
    curve = schedule.curve(HORIZON)
    optimizer, scheduler = made(schedule, tensors)
    scale = [1.0 for _ in OWN]
    for t in range(STEPS):
        for place, group in enumerate(optimizer.param_groups):
            level = curve(t, OWN[place])
            value = changes.get((t, place))
            expected = scale[place] * level
            if value is not None:
                set_lr(group, value)
                expected = value
                if level:
                    scale[place] = value / level
                elif value and scale[place] == 0:  # the curve is 0 here: nothing to be relative to
                    scale[place] = 1.0
            assert math.isclose(float(group["lr"]), expected, rel_tol=1e-9, abs_tol=1e-15)
        if t == cut and how == "resumed":
            optimizer, scheduler = resumed(optimizer, scheduler, schedule, tensors)
        elif t == cut and how == "copied":
            optimizer, scheduler = copy.deepcopy((optimizer, scheduler))
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(2)
        optimizer.step()
        scheduler.step()


def test_torchs_recursive_schedulers_agree():
    """The lr is set to 0 at update 2, and back at update 4."""
    found = []
    for make in (
        lambda o: ScheduledLR(o, torch_schedules.ExponentialLR(0.9).curve(HORIZON)),
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    ):
        p = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([p], lr=0.1)
        scheduler = make(optimizer)
        lrs = []
        for t in range(8):
            if t in (2, 4):
                optimizer.param_groups[0]["lr"] = 0.0 if t == 2 else 0.1
            lrs.append(optimizer.param_groups[0]["lr"])
            p.grad = torch.ones(2)
            optimizer.step()
            scheduler.step()
        found.append(lrs)
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0][2:5] == [0.0, 0.0, 0.1]


def test_a_drop_of_the_curve_also_lowers_an_lr_that_was_set():
    schedule = plateau(patience=0, factor=0.5)
    optimizer, scheduler = made(schedule)
    for value in (0.0, 0.4):
        optimizer.param_groups[0]["lr"] = value
        scheduler.observe(1.0)  # the first is the best; the second is no better
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5 * OWN[1])
