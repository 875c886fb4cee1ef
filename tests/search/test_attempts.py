"""A trial that has failed is tried again when its search is resumed, with its number and values."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from lit_optim.search.attempts import group_attempts
from lit_optim.search.data import TrialEnd
from lit_optim.search.store import open_store
from tests.search.made_up import by_loss, loss, run, search

TRIALS = 6


def open_again(folder, trials=TRIALS, sampler="tpe"):
    """A search that is begun, or resumed."""
    store = open_store(search(trials=trials, sampler=sampler), folder)
    store.begin()
    return store, store.search.studies[0]


def tell_all(store, study, failing=()):
    """Run the trials that are left; those in `failing` fail."""
    for number in store.unfinished(study):
        trial = store.propose(study, number)
        value = loss(trial.values["optimizer.lr"])
        failed = TrialEnd("failed", None, {"message": "killed"})
        store.tell(trial, failed if number in failing else TrialEnd("completed", value))


def ends_of(store, study):
    return [(trial.number, trial.values, end.kind, end.value) for trial, end in store.ends(study)]


def trials_of_optuna(folder):
    [name] = optuna.get_all_study_names(f"sqlite:///{folder / 'study.db'}")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'study.db'}").trials


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_trial_that_has_failed_keeps_its_number_and_values(tmp_path, sampler):
    store, study = open_again(tmp_path, sampler=sampler)
    tell_all(store, study, failing=(1, 4))
    before = ends_of(store, study)
    assert store.unfinished(study) == []
    again, _ = open_again(tmp_path, sampler=sampler)
    assert again.unfinished(study) == [1, 4]
    tell_all(again, study)
    after = ends_of(again, study)
    assert [one[:2] for one in after] == [one[:2] for one in before]
    assert {kind for _, _, kind, _ in after} == {"completed"}
    assert after[1][3] == loss(before[1][1]["optimizer.lr"])
    assert again.best(study)[1].value == min(value for *_, value in after)


def test_what_optuna_knows_is_that_it_failed_and_that_another_trial_repeats_it(tmp_path):
    for failing in ((1,), (1,), ()):
        tell_all(*open_again(tmp_path), failing)
    trials = trials_of_optuna(tmp_path)
    assert [trial.number for trial in trials if trial.state is TrialState.FAIL] == [1, 6]
    repeats = trials[7]
    assert (repeats.state, repeats.params) == (TrialState.COMPLETE, trials[1].params)
    marks = [repeats.system_attrs[name] for name in ("failed_trial", "retry_history")]
    assert marks == [1, [1, 6]]
    assert [len(attempts) for attempts in group_attempts(trials)] == [1, 3, 1, 1, 1, 1]
    tell_all(*open_again(tmp_path))  # nothing has failed any more
    assert len(trials_of_optuna(tmp_path)) == 8


def test_a_longer_search_proposes_what_it_would_have_if_nothing_had_failed(tmp_path):
    for number, failing in enumerate([(), (TRIALS - 1,)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        tell_all(*open_again(folder), failing)
        tell_all(*open_again(folder))
        tell_all(*open_again(folder, trials=9))
    smooth, rough = (open_again(tmp_path / str(n), trials=9) for n in (0, 1))
    assert ends_of(*smooth) == ends_of(*rough)


def test_a_worker_that_joined_before_tells_of_its_own_attempt_only(tmp_path):
    """It was held up, while its trial failed elsewhere and was added again."""
    store, study = open_again(tmp_path)
    mine = store.propose(study, 0)
    other, _ = open_again(tmp_path)
    other.tell(other.propose(study, 0), TrialEnd("failed", None))
    resumed, _ = open_again(tmp_path)
    store.tell(mine, TrialEnd("completed", 0.5))
    assert resumed.unfinished(study) == [0, 1, 2, 3, 4, 5]
    tell_all(resumed, study)
    assert len(ends_of(resumed, study)) == TRIALS


def test_a_killed_run_is_repeated_in_its_directory_by_the_same_line(tmp_path):
    def act(run_dir, values, count):
        return -9 if run_dir.parent.name == "trial=001" else by_loss(run_dir, values, count)

    store, study = open_again(tmp_path, trials=3)
    run(store.search, tmp_path, act, store=store)
    assert [kind for _, _, kind, _ in ends_of(store, study)] == ["completed", "failed", "completed"]
    again, _ = open_again(tmp_path, trials=3)
    ran = run(again.search, tmp_path, store=again)
    assert ran.started == ["trial=001/seed=0"]
    assert [kind for _, _, kind, _ in ends_of(again, study)] == ["completed"] * 3
    assert again.ends(study)[1][1].attributes["run_dirs"] == ["trial=001/seed=0"]
    assert "message" not in again.ends(study)[1][1].attributes


def test_marks_of_another_program_make_no_attempt(tmp_path):
    store, study = open_again(tmp_path, trials=2)
    loaded = store._load(study)
    for first in (99, "1", None, [0], True):
        marked = optuna.trial.create_trial(
            state=TrialState.WAITING, system_attrs={"failed_trial": first}
        )
        loaded.add_trial(marked)
    assert len(group_attempts(loaded.trials)) == 6  # True is 1
