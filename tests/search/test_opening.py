"""Storages by their URLs: what each needs, and what is said where it cannot be used."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from lit_optim.search import file_systems, opening
from lit_optim.search.data import Search, Settings, Span, Study, TrialEnd
from lit_optim.search.opening import open_storage
from lit_optim.search.store import open_store
from lit_optim.search.unusable import StorageFailed

STUDY = Study("", ("optimizer=adamw",), {"optimizer.lr": Span(1e-4, 1e-1, is_log=True)})


def search(storage):
    return Search((), [STUDY], Settings(4, sampler="tpe", storage=storage), name="mine")


def proposals(storage, sweep_dir):
    """What is proposed by two openings of a storage, as by two workers."""
    first, second = (open_store(search(storage), sweep_dir) for _ in range(2))
    first.begin()
    found = []
    for number in range(4):
        store = (first, second)[number % 2]
        trial = store.propose(STUDY, number)
        found.append(trial.values)
        lr = trial.values["optimizer.lr"]
        store.report(trial, 10, lr)
        store.tell(trial, TrialEnd("completed", lr, {"seconds": 1.0}))
    ends = second.ends(STUDY)
    assert [(end.kind, end.value) for _, end in ends] == [
        ("completed", values["optimizer.lr"]) for values in found
    ]
    assert not first.unfinished(STUDY)
    return found


@pytest.mark.parametrize("kind", ["journal", "grpc", "postgresql", "sqlite"])
def test_each_storage_proposes_the_same(tmp_path, request, kind):
    if kind == "grpc":
        url = request.getfixturevalue("grpc_server").url
    elif kind == "postgresql":
        url = request.getfixturevalue("postgres").url
    else:
        slashes = ":" if kind == "journal" else ":///"
        url = f"{kind}{slashes}{tmp_path / 'shared'}"
    if kind != "sqlite":
        default = tmp_path / "default"
        default.mkdir()
        assert proposals(url, tmp_path) == proposals(None, default)
    else:
        proposals(url, tmp_path)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("journal:", "search.storage=journal:: names no file; write journal:/shared/study.log"),
        ("journal:///", "search.storage=journal:///: names no file"),
        ("journal:absent/study.log", "absent/study.log: No such file or directory"),
        ("grpc://", "search.storage=grpc://: write grpc://host:13000"),
        ("grpc://host:port", "search.storage=grpc://host:port: write grpc://host:13000"),
        ("grpc://localhost:1", "search.storage=grpc://localhost:1: cannot be reached"),
        ("postgresql+psycopg://me:secret@localhost:1/x",
         "search.storage=postgresql+psycopg://me:***@localhost:1/x: connection failed"),
        ("postgresql+absent://me:secret@localhost/x",
         "search.storage=postgresql+absent://me:***@localhost/x: Can't load plugin"),
        ("nonsense", "search.storage: Could not parse SQLAlchemy URL"),
    ],
)  # fmt: skip
def test_a_storage_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, url, line):
    monkeypatch.setattr(opening, "SECONDS_TO_CONNECT", 0.3)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageFailed) as refused:
        open_storage(url, tmp_path)
    assert str(refused.value).startswith(line)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sqlite_is_refused_on_a_network_file_system(tmp_path, monkeypatch):
    table = tmp_path / "mounts"
    table.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(file_systems, "MOUNTS", table)
    for url in (None, f"sqlite:///{tmp_path}/study.db"):
        with pytest.raises(StorageFailed) as refused:
            open_storage(url, tmp_path)
        assert str(refused.value) == (
            f"{tmp_path}/study.db: SQLite cannot be relied on on a network file system (nfs4); "
            f"search.storage=journal:{tmp_path}/study.log can"
        )
    assert not (tmp_path / "study.db").exists()
    open_storage(f"journal:{tmp_path}/study.log", tmp_path)


def test_a_database_of_another_search_is_shared(tmp_path):
    """Two searches in one journal do not see each other."""
    url = f"journal:{tmp_path}/study.log"
    one = open_store(Search((), [STUDY], Settings(3, storage=url), name="one"), tmp_path)
    two = open_store(Search((), [STUDY], Settings(2, storage=url), name="two"), tmp_path)
    one.begin()
    two.begin()
    assert (len(one.unfinished(STUDY)), len(two.unfinished(STUDY))) == (3, 2)
    studies = optuna.get_all_study_names(open_storage(url, tmp_path).storage)
    assert len(studies) == 2


def test_a_worker_that_is_late_finds_a_trial_ended(tmp_path):
    url = f"journal:{tmp_path}/study.log"
    first, second = (open_store(search(url), tmp_path) for _ in range(2))
    first.begin()
    trial = first.propose(STUDY, 0)
    assert second.propose(STUDY, 0) == trial  # as after a kill
    first.tell(trial, TrialEnd("completed", 0.5))
    second.tell(trial, TrialEnd("completed", 0.7))
    assert second.propose(STUDY, 0) is None
    [(_, end)] = second.ends(STUDY)
    assert end.value == 0.5
    [study] = optuna.get_all_study_summaries(open_storage(url, tmp_path).storage)
    assert study.best_trial.state == TrialState.COMPLETE
