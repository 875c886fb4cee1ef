"""Samplers propose what Optuna's do, in both of its versions, also after an interruption."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage
from scipy.stats import qmc

from lit_optim.errors import UsageError
from lit_optim.search.data import Choice, Search, Settings, Span, Study, TrialEnd
from lit_optim.search.grids import make_grid
from lit_optim.search.samplers import make_sampler, place, seed_of
from lit_optim.search.store import Store
from lit_optim.search.values import check_values
from tests.search.memory import memory_store, proposals, run_trial

LR = Span(1e-4, 1e-1, is_log=True)
SPACE = {
    "lr": LR,
    "decay": Choice((0, 0.01, "auto", None, True)),
    "momentum": Span(0.0, 0.99),
    "width": Span(4, 64, is_log=True, is_whole=True),
    "depth": Span(1, 4, is_whole=True),
}
STUDY = Study("", (), SPACE)
LEARN = ["tpe", "gp"]
ALL = ["tpe", "gp", "qmc", "random", "grid"]
#: Proposals of Optuna 4.9 and 5.0 for the trials 12 and 13 of the search below. Those of gp agree
#: as well, but depend on the last bits of linear algebra.
RECORDED = {
    "tpe": [
        {"lr": 0.004799, "decay": None, "momentum": 0.7061, "width": 30, "depth": 4},
        {"lr": 0.004336, "decay": None, "momentum": 0.6744, "width": 20, "depth": 4},
    ],
    "random": [
        {"lr": 0.0002017, "decay": 0, "momentum": 0.6616, "width": 34, "depth": 1},
        {"lr": 0.0001851, "decay": "auto", "momentum": 0.6737, "width": 8, "depth": 2},
    ],
}


def bowl(values) -> float:
    """Diverges beyond lr = 0.03; else the best is lr = 0.005 without momentum."""
    lr = math.log10(values["lr"] / 0.005)
    return math.inf if lr > 0.8 else lr**2 + values.get("momentum", 0.0) * 0.1


@pytest.mark.parametrize("sampler", RECORDED)
def test_both_versions_of_optuna_propose_the_same(sampler):
    found = proposals(memory_store(STUDY, trials=14, sampler=sampler), STUDY, bowl)
    assert found[12:] == RECORDED[sampler]


def history_of(store):
    """A study of Optuna's own with the trials that have ended."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    dims = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "decay": optuna.distributions.CategoricalDistribution((0, 0.01, "auto", None, True)),
        "momentum": optuna.distributions.FloatDistribution(0.0, 0.99),
        "width": optuna.distributions.IntDistribution(4, 64, log=True),
        "depth": optuna.distributions.IntDistribution(1, 4),
    }
    ended = store.ends(STUDY)
    worst = max(end.value for _, end in ended)
    for trial, end in ended:
        value = worst if end.kind == "diverged" else end.value
        study.add_trial(
            optuna.trial.create_trial(params=dict(trial.values), distributions=dims, value=value)
        )
    return study, dims


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_proposal_is_that_of_optunas_own_ask(sampler):
    store = memory_store(STUDY, trials=13, sampler=sampler, seed=3)
    store.begin()
    for number in range(12):
        run_trial(store, STUDY, number, bowl)
    own, dims = history_of(store)
    own.sampler = make_sampler(sampler, SPACE, seed_of(3, 12))
    asked, proposed = own.ask(dims).params, store.propose(STUDY, 12).values
    for key, value in asked.items():
        is_choice = isinstance(SPACE[key], Choice)
        assert proposed[key] == (value if is_choice else pytest.approx(value, rel=1e-3, abs=1e-4))


def test_qmc_and_first_proposals_are_points_of_scipys_sobol_sequence():
    engine = qmc.Sobol(1, scramble=True, seed=np.random.default_rng(7))
    expected = [1e-4 * 1000**share for (share,) in engine.random(8)]
    study = Study("", (), {"lr": LR})
    for sampler, count in (("qmc", 8), ("tpe", 4), ("gp", 4)):
        found = proposals(memory_store(study, trials=8, sampler=sampler, seed=7), study, bowl)
        assert [values["lr"] for values in found[:count]] == pytest.approx(
            expected[:count], rel=1e-3
        )
        assert found[count:] != pytest.approx(expected[count:]) or sampler == "qmc"


@pytest.mark.parametrize("sampler", ALL)
def test_a_search_that_is_interrupted_at_any_write_proposes_the_same(sampler, monkeypatch):
    """A kill after each write to the storage, and before the next; then a new store goes on."""
    study = Study("", (), {"lr": LR, "decay": Choice((0, 0.01)), "momentum": Span(0.0, 0.9)})
    trials = 12 if sampler == "grid" else 10
    expected = proposals(memory_store(study, trials=trials, sampler=sampler), study, bowl)
    storage, chance = InMemoryStorage(), random.Random(0)

    class Killed(BaseException):
        pass

    def killing(write):
        def call(*args, **kwargs):
            result = write(*args, **kwargs)
            if chance.random() < 0.4:
                raise Killed
            return result

        return call

    for name in (
        "create_new_study", "create_new_trial", "set_study_user_attr", "set_trial_param",
        "set_trial_state_values", "set_trial_system_attr", "set_trial_user_attr",
    ):  # fmt: skip
        monkeypatch.setattr(storage, name, killing(getattr(storage, name)))
    kills = 0
    for _ in range(500):
        try:
            store = memory_store(study, storage, trials=trials, sampler=sampler)
            found = proposals(store, study, bowl)
            break
        except Killed:
            kills += 1
    assert kills > 10
    assert found == expected


@pytest.mark.parametrize("sampler", LEARN)
def test_a_cliff_of_divergence_is_learnt(sampler):
    """Told as failures, 86 % of the proposals after the first ten would diverge."""
    study, diverged, seeds = Study("", (), {"lr": LR}), 0, range(4 if sampler == "tpe" else 1)
    for seed in seeds:
        store = memory_store(study, trials=25, sampler=sampler, seed=seed)
        found = proposals(
            store, study, lambda values: bowl(values) if values["lr"] < 0.01 else math.inf
        )
        diverged += sum(values["lr"] >= 0.01 for values in found[10:])
        _, best = store.best(study)
        assert best.value < 0.02
    assert diverged / (15 * len(seeds)) < 0.5


def test_those_who_run_beside_each_other_do_not_get_the_same():
    study = Study("", (), {"lr": LR})
    store = memory_store(study, trials=40, sampler="tpe")
    store.begin()
    for number in range(20):
        run_trial(store, study, number, bowl)
    beside = [store.propose(study, number).values["lr"] for number in range(20, 40)]
    assert len(set(beside)) == len(beside)


@pytest.mark.parametrize("sampler", ALL)
def test_proposals_are_within_the_space(sampler):
    for seed in range(2):
        store = memory_store(
            STUDY, trials=200 if sampler == "grid" else 14, sampler=sampler, seed=seed
        )
        for values in proposals(store, STUDY, bowl):
            assert check_values(values, SPACE, "") == values


def test_studies_of_a_search_have_their_own_spaces_and_the_same_first_points():
    adamw = Study("adamw", (), {"lr": LR, "betas.1": Choice((0.95, 0.99))})
    sgd = Study("sgd", (), {"lr": Span(1e-2, 10.0, is_log=True), "momentum": Span(0.0, 0.99)})
    opened = memory_store(adamw, trials=8)._opened
    store = Store(Search((), [adamw, sgd], Settings(trials=8, sampler="tpe")), opened, Path("x"))
    store.begin()
    for number in range(8):
        for study in (adamw, sgd):
            run_trial(store, study, number, lambda values: values["lr"])
    first = [trial.values["lr"] for trial, _ in store.ends(adamw)][:6]
    second = [trial.values["lr"] for trial, _ in store.ends(sgd)][:6]
    assert [lr * 100 for lr in first] == pytest.approx(second, rel=1e-3)
    assert {tuple(trial.values) for trial, _ in store.ends(sgd)} == {("lr", "momentum")}


def test_auto_is_a_grid_for_one_key_and_few_trials():
    settings = Settings(trials=12)
    assert settings.sampler_of({"lr": LR}) == "grid"
    assert replace(settings, trials=13).sampler_of({"lr": LR}) == "tpe"
    assert settings.sampler_of(SPACE) == "tpe"


@pytest.mark.parametrize("count", [2, 3, 6, 12])
def test_a_grid_of_one_key_is_even_and_has_both_ends(count):
    found = [point["lr"] for point in make_grid({"lr": LR}, count)]
    assert sorted(found) == pytest.approx(np.geomspace(1e-4, 1e-1, count), rel=1e-3)
    assert {1e-4, 1e-1} <= set(found)


def test_the_first_half_of_a_grid_covers_the_range():
    found = [point["x"] for point in make_grid({"x": Span(0.0, 8.0)}, 9)]
    assert found[:5] == [4.0, 0.0, 8.0, 2.0, 6.0]


def test_a_grid_of_more_trials_fills_the_gaps():
    before = make_grid({"x": Span(0.0, 1.0)}, 3)
    after = make_grid({"x": Span(0.0, 1.0)}, 5, before)
    assert sorted(point["x"] for point in [*before, *after]) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_grid_of_several_keys_has_all_combinations_within_the_trials():
    space = {"lr": LR, "decay": Choice((0, 0.1)), "depth": Span(1, 3, is_whole=True)}
    found = make_grid(space, 20)
    assert len(found) == len({tuple(point.values()) for point in found}) == 18
    assert {point["depth"] for point in found} == {1, 2, 3}
    with pytest.raises(UsageError, match=r"needs 8 trials or more, search.trials is 7"):
        make_grid(space, 7)


def test_a_grid_goes_on_as_a_grid_and_then_as_tpe():
    study = Study("", (), {"lr": LR})
    storage = InMemoryStorage()
    for trials in (3, 6, 16):
        found = proposals(memory_store(study, storage, trials=trials), study, bowl)
        assert len(found) == trials
    assert sorted(v["lr"] for v in found[:3]) == pytest.approx(
        np.geomspace(1e-4, 1e-1, 3), rel=1e-3
    )
    near = [abs(math.log10(values["lr"] / 0.005)) < 0.5 for values in found[6:]]
    assert sum(near) > 5  # of 10; of random ones a third


@pytest.mark.parametrize("one", SPACE.values(), ids=SPACE)
def test_shares_are_spread_over_the_whole_range(one):
    values = [place(one, (index + 0.5) / 1000) for index in range(1000)]
    if isinstance(one, Choice) or (one.is_whole and not one.is_log):
        kinds = list(dict.fromkeys(values))
        counts = [values.count(kind) for kind in kinds]
        assert max(counts) - min(counts) <= 1
    else:
        scale = np.log if one.is_log else np.asarray
        middle = scale(one.low) / 2 + scale(one.high) / 2
        assert np.mean([scale(value) < middle for value in values]) == pytest.approx(0.5, abs=0.05)
    ends = one.values[:: len(one.values) - 1] if isinstance(one, Choice) else (one.low, one.high)
    assert [place(one, 0.0), place(one, 1.0)] == pytest.approx([*ends])


def test_a_failed_trial_is_no_value_to_learn_from():
    study = Study("", (), {"lr": LR})
    store = memory_store(study, trials=13, sampler="tpe")
    store.begin()
    store.tell(store.propose(study, 0), TrialEnd("failed", None))
    assert store.best(study) is None
    assert [end.kind for _, end in store.ends(study)] == ["failed"]


def test_the_worst_value_is_that_of_all_trials_whenever_they_ended():
    """Of a search whose first trials diverged, before anything was known."""
    study = Study("", (), {"lr": LR})
    store = memory_store(study, trials=9, sampler="tpe")
    store.begin()
    for number, end in enumerate(
        [
            TrialEnd("diverged", None), TrialEnd("diverged", 2.3), TrialEnd("completed", 0.5),
            TrialEnd("diverged", 0.1), TrialEnd("completed", math.nan), TrialEnd("completed", 4.0),
        ]
    ):  # fmt: skip
        store.tell(store.propose(study, number), end)
    told = [(end.kind, end.value) for _, end in store.ends(study)]
    assert told == [
        ("diverged", 1e6), ("diverged", 2.3), ("completed", 0.5),
        ("diverged", 2.3), ("diverged", 2.3), ("completed", 4.0),
    ]  # fmt: skip
    assert [trial.values for trial in store._known_trials(study)[:6]] == [
        [4.0], [4.0], [0.5], [4.0], [4.0], [4.0],
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_may_have_the_value_that_stands_for_an_unknown_worst(mode):
    study, worst = Study("", (), {"lr": LR}), 1e6 if mode == "min" else -1e6
    store = memory_store(study, trials=4, sampler="tpe", mode=mode)
    store.begin()
    for number, end in enumerate(
        [TrialEnd("diverged", None), TrialEnd("completed", worst), TrialEnd("completed", 0.5)]
    ):
        store.tell(store.propose(study, number), end)
    assert [trial.values for trial in store._known_trials(study)[:3]] == [[worst], [worst], [0.5]]
    far = 2e6 if mode == "min" else -2e6
    store.tell(store.propose(study, 3), TrialEnd("completed", far))
    assert store._known_trials(study)[0].values == [far]
