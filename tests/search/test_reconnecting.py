"""A storage that is a server is waited for, and what it had done is not done again."""

from __future__ import annotations

import random
import threading
import time

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from lit_optim.search import reconnecting
from lit_optim.search.opening import open_storage
from lit_optim.search.reconnecting import Reconnecting, StorageLost, is_lost

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Unreliable:
    """Loses many calls to a storage, before or after they are carried out."""

    def __init__(self, is_after):
        self.storage, self.is_after, self.rng = InMemoryStorage(), is_after, random.Random(0)

    def __getattr__(self, name):
        def call(*arguments, **more):
            is_lost = self.rng.random() < 0.4
            answer = None
            if self.is_after or not is_lost:
                answer = getattr(self.storage, name)(*arguments, **more)
            if is_lost:
                raise OperationalError("INSERT", {}, Exception("server closed the connection"))
            return answer

        return call


@pytest.fixture
def told():
    return []


def search(storage, n_trials):
    """The values of a study of that many enqueued trials."""
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    for number in range(n_trials):
        study.enqueue_trial({"x": number / 10}, user_attrs={"number": number})
    for _ in range(n_trials):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("seen", x)
        trial.report(x, step=1)
        study.tell(trial, x)
    return [
        (trial.number, trial.value, trial.state.name, trial.user_attrs) for trial in study.trials
    ]


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_what_a_lost_call_had_done_is_not_done_twice(told, monkeypatch, is_after):
    monkeypatch.setattr(reconnecting, "PAUSE", 0)
    storage = Reconnecting(Unreliable(is_after), "here", told.append)
    assert search(storage, 4) == search(InMemoryStorage(), 4)
    assert told[0] == (
        "here cannot be reached, waiting for it: (builtins.Exception) server closed the connection"
    )
    assert told[1].startswith("here is back after 0 s")


def test_every_method_of_a_storage_is_forwarded(told):
    public = {name for name in vars(BaseStorage) if not name.startswith("_")}
    assert all(getattr(Reconnecting, name) is not getattr(BaseStorage, name) for name in public)


def test_it_is_given_up_in_the_end(told, monkeypatch):
    monkeypatch.setattr(reconnecting, "PAUSE", 0.01)
    monkeypatch.setattr(reconnecting, "SECONDS_BETWEEN_LINES", 0.1)

    class Gone(InMemoryStorage):
        def get_all_studies(self):
            raise OperationalError("SELECT", {}, Exception("no route to host"))

    with pytest.raises(StorageLost, match=r"^here could not be reached for 0 s; once it is"):
        Reconnecting(Gone(), "here", told.append, most=0.3).get_all_studies()
    assert 3 <= len(told) <= 4
    assert told[1].startswith("still waiting for here, since 0 s")


def test_other_errors_are_not_waited_for(told):
    storage = Reconnecting(InMemoryStorage(), "here", told.append)
    with pytest.raises(KeyError):
        storage.get_trial(3)
    direction = optuna.study.StudyDirection.MINIMIZE
    storage.create_new_study([direction], "s")
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        storage.create_new_study([direction], "s")
    assert not told
    assert not is_lost(OSError("no space"))


def kill_and_start(server, seconds):
    server.kill()
    time.sleep(seconds)
    server.start()


@pytest.mark.parametrize("kind", ["grpc_server", "postgres"])
def test_a_search_goes_on_when_its_server_was_killed(kind, told, request, monkeypatch, tmp_path):
    server = request.getfixturevalue(kind)
    monkeypatch.setattr(reconnecting, "PAUSE", 0.1)
    opened = open_storage(server.url, tmp_path)
    monkeypatch.setattr(opened.storage.storage, "tell", told.append)
    study = optuna.create_study(study_name=str(tmp_path), storage=opened.storage)
    for number in range(6):
        study.enqueue_trial({"x": number / 10})
    for number in range(6):
        trial = study.ask()
        if number == 2:  # in the middle of what follows
            thread = threading.Thread(target=kill_and_start, args=(server, 0.6))
            thread.start()
            time.sleep(0.02)
        study.tell(trial, trial.suggest_float("x", 0, 1))
        if number == 2:
            study.enqueue_trial({"x": 0.6})
            thread.join()
    again = open_storage(server.url, tmp_path).storage
    trials = optuna.load_study(study_name=str(tmp_path), storage=again).trials
    assert [trial.value for trial in trials[:6]] == [number / 10 for number in range(6)]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6 + [TrialState.WAITING]
    assert any("cannot be reached" in line for line in told)
    assert any("is back after" in line for line in told)
