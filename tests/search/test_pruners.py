"""Pruners stop those trials which their definitions stop."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from lit_optim.search.data import Span, Study, TrialEnd
from tests.search.memory import memory_store

STUDY = Study("", (), {"lr": Span(1e-4, 1e-1, is_log=True)})
LENGTH, TRIALS = 180, 24
LOOKS = range(10, LENGTH + 1, 10)


def make_curves(mode="min"):
    """A curve of each trial: falls towards its end, with noise that becomes less."""
    chance = np.random.default_rng(0)
    ends = chance.permutation(np.linspace(0.1, 2.0, TRIALS))
    sign = 1 if mode == "min" else -1
    return [
        {
            step: sign
            * float(end + 2 * math.exp(-step / 60) + chance.normal() * 0.3 * (1 - step / 200))
            for step in LOOKS
        }
        for end in ends
    ]


def run_pruned(pruner, mode="min", length=LENGTH):
    """After how many updates each trial was stopped; `LENGTH`: it was not."""
    store = memory_store(STUDY, trials=TRIALS, sampler="random", pruner=pruner, mode=mode)
    store.begin()
    stopped = []
    for number, curve in enumerate(make_curves(mode)):
        trial = store.propose(STUDY, number)
        for step, value in curve.items():
            store.report(trial, step, value)
            if step < LENGTH and store.should_prune(trial, length):
                store.tell(trial, TrialEnd("pruned", value))
                break
        else:
            store.tell(trial, TrialEnd("completed", value))
        stopped.append(step)
    return stopped


def simulate_percentile(curves, percent, sign):
    """Stopped where a trial's best so far is worse than so many percent of those which ended."""
    stopped, ended = [], []
    for curve in curves:
        at = LENGTH
        for step in LOOKS:
            best = min(sign * value for known, value in curve.items() if known <= step)
            others = [sign * other[step] for other in ended]
            is_early = step < LENGTH / 2 or len(ended) < 3
            if step < LENGTH and not is_early and best > np.percentile(others, percent):
                at = step
                break
        if at == LENGTH:
            ended.append(curve)
        stopped.append(at)
    return stopped


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("pruner", "percent"), [("median", 50), ("percentile", 75)])
def test_half_or_a_quarter_is_stopped_after_half_of_the_run(pruner, percent, mode):
    stopped = run_pruned(pruner, mode)
    expected = simulate_percentile(make_curves(mode), percent, 1 if mode == "min" else -1)
    assert stopped == expected
    assert 3 < sum(step < LENGTH for step in stopped) < TRIALS - 3
    assert min(stopped) >= LENGTH / 2


def simulate_hyperband(curves):
    """Brackets of rungs at 1/9 and 1/3 of the run; at each, the best third goes on."""
    brackets = 3
    rungs: dict[tuple[int, int], list[float]] = {}
    # Optuna gives a bracket as much of its hash as the bracket needs
    budgets = [math.ceil(brackets * 3**s / (s + 1)) for s in reversed(range(brackets))]
    stopped = []
    for number, curve in enumerate(curves):
        place = zlib.crc32(f"search_{number}".encode()) % sum(budgets)
        bracket = next(b for b in range(brackets) if place < sum(budgets[: b + 1]))
        at, rung = LENGTH, 0
        for step in LOOKS:
            while at == LENGTH and step < LENGTH and step >= LENGTH // 9 * 3 ** (bracket + rung):
                values = rungs.setdefault((bracket, rung), [])
                values.append(curve[step])
                if curve[step] > sorted(values)[max(len(values) // 3 - 1, 0)]:
                    at = step
                rung += 1
            if at < LENGTH:
                break
        stopped.append(at)
    return stopped


def test_hyperband_lets_a_third_go_on_at_each_rung():
    stopped = run_pruned("hyperband")
    assert stopped == simulate_hyperband(make_curves())
    assert {20, 60} <= set(stopped)


@pytest.mark.parametrize("pruner", ["median", "percentile", "hyperband", "none"])
def test_nothing_is_stopped_in_a_run_of_unknown_length(pruner):
    assert run_pruned(pruner, length=None) == [LENGTH] * TRIALS
    assert pruner != "none" or run_pruned(pruner) == [LENGTH] * TRIALS


@pytest.mark.parametrize("pruner", ["median", "percentile"])
def test_the_best_trial_is_not_stopped(pruner):
    finals = [curve[LENGTH] for curve in make_curves()]
    assert run_pruned(pruner)[finals.index(min(finals))] == LENGTH


def test_a_resumed_trial_reports_the_same_steps_again():
    store = memory_store(STUDY, trials=1, sampler="random", pruner="median")
    store.begin()
    trial = store.propose(STUDY, 0)
    for step in (10, 20, 10, 20, 30):
        store.report(trial, step, 1.0)
    store.tell(trial, TrialEnd("pruned", 1.0))
    store.report(trial, 40, 1.0)
    assert not store.should_prune(trial, 40)
    (known,) = store._trials(STUDY)
    assert known.intermediate_values == {10: 1.0, 20: 1.0, 30: 1.0}


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_a_sampler_learns_of_a_pruned_trial(sampler):
    """gp does not look at pruned ones, so they are told as completed; the record says pruned."""
    store = memory_store(STUDY, trials=2, sampler=sampler, pruner="median")
    store.begin()
    store.tell(store.propose(STUDY, 0), TrialEnd("pruned", 0.1))
    store.tell(store.propose(STUDY, 1), TrialEnd("completed", 0.5))
    states = [trial.state.name for trial in store._trials(STUDY)]
    assert states == ["PRUNED" if sampler == "tpe" else "COMPLETE", "COMPLETE"]
    assert [end.kind for _, end in store.ends(STUDY)] == ["pruned", "completed"]
    assert store.best(STUDY)[0].number == 1
