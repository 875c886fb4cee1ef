"""SQLite: what is wrong with a file is one line; a kill in the middle of a write loses nothing."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from sqlalchemy import event

from lit_optim.errors import UsageError
from lit_optim.search import sqlite_files, storages
from lit_optim.search.attempts import FIXED
from lit_optim.search.data import Choice, Search, Settings, Span, Study, TrialEnd
from lit_optim.search.sqlite_files import open_sqlite_url
from lit_optim.search.storages import hold_lock, lock_of
from lit_optim.search.store import open_store
from lit_optim.search.unusable import StorageFailed
from tests.search.killed_writer import run_search

ROOT = Path(__file__).parents[2]
STUDY = Study("", (), {"lr": Span(1e-4, 1e-1, is_log=True), "decay": Choice((0, 0.01))})


def make_store(folder, trials=6, **settings):
    return open_store(Search((), [STUDY], Settings(trials, sampler="random", **settings)), folder)


def fill(store, count=2):
    store.begin()
    for number in store.unfinished(STUDY)[:count]:
        trial = store.propose(STUDY, number)
        store.report(trial, 10, 0.5)
        store.tell(trial, TrialEnd("completed", 0.5, {"steps": [100]}))


def write_bytes(file):
    file.write_bytes(b"no database at all, however long it may be")


def make_other_program(file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")


def make_newer(file):
    fill(make_store(file.parent))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE version_info SET schema_version = 99, library_version = '9.0.0'")
        connection.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")


def cut_off(file):
    fill(make_store(file.parent))
    os.truncate(file, file.stat().st_size // 3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: file.write_bytes(b""), "is not a database of SQLite"),
        (write_bytes, "is not a database of SQLite"),
        (lambda file: file.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
        (lambda file: file.symlink_to("nowhere"), "is a link"),
        (make_other_program, "belongs to another program"),
        (make_newer, r"version|compatible"),
        (cut_off, "malformed|is damaged"),
    ],
    ids=["empty", "text", "directory", "fifo", "broken link", "other program", "newer", "cut off"],
)
def test_what_is_no_study_is_refused_in_one_line(tmp_path, make, reason):
    make(tmp_path / "study.db")
    with pytest.raises(StorageFailed, match=reason) as caught:
        fill(make_store(tmp_path))
    assert str(caught.value).startswith(str(tmp_path / "study.db"))
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_to_is_one_line():
    with pytest.raises(StorageFailed, match=r"^/proc/study.db: [^\n]*$"):
        open_sqlite_url("sqlite:////proc/study.db")


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:study.db"]
)
def test_a_url_must_name_a_file(url):
    with pytest.raises(StorageFailed, match="names no file"):
        open_sqlite_url(url)


def test_a_damaged_page_is_one_line_or_does_no_harm(tmp_path):
    """Bytes anywhere in the file are others: whatever Optuna and SQLite say of it."""
    fill(make_store(tmp_path))
    whole, chance, refused = (tmp_path / "study.db").read_bytes(), random.Random(0), 0
    for _ in range(12):
        damaged = bytearray(whole)
        for _ in range(8):
            at = chance.randrange(100, len(whole) - 600)
            damaged[at : at + 600] = chance.randbytes(600)
        (tmp_path / "study.db").write_bytes(damaged)
        said = ""
        try:
            fill(make_store(tmp_path), 6)
        except UsageError as error:
            said = str(error)
        refused += bool(said)
        assert "\n" not in said
    assert refused > 3


def test_a_lock_of_another_process_is_waited_for_and_then_told(tmp_path, monkeypatch):
    store = make_store(tmp_path)
    fill(store)
    for module in (storages, sqlite_files):
        monkeypatch.setattr(module, "SECONDS_TO_WAIT", 0.05)
    with (
        hold_lock(lock_of(tmp_path / "study.db"), ""),
        pytest.raises(StorageFailed, match="another process has locked it"),
    ):
        store.unfinished(STUDY)
    with closing(sqlite3.connect(tmp_path / "study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageFailed, match="locked"):
            make_store(tmp_path)
    fill(store)


def test_a_full_disk_is_told_and_the_search_goes_on_later(tmp_path):
    store = make_store(tmp_path)
    engine = store._opened.storage.storage._backend.engine

    @event.listens_for(engine, "connect")
    def _limit(connection, record):
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    engine.dispose()
    with pytest.raises(StorageFailed, match=r"study\.db: database or disk is full$"):
        store.begin({"": {"model.layers": "64," * 10_000}})
    later = make_store(tmp_path)
    fill(later)
    assert [trial.number for trial, _ in later.ends(STUDY)] == [0, 1]


def test_values_of_a_stranger_are_no_overrides(tmp_path):
    store = make_store(tmp_path)
    store.begin()
    trial_id = store._trial_id(STUDY, 0)
    for values in (
        {"lr": 1e-3, "decay": 0, "hydra.run.dir": "/"},
        {"lr": "1e-3 hydra.run.dir=/", "decay": 0},
        {"lr": 10.0, "decay": 0},
        {"lr": 1e-3, "decay": False},
        {"lr": True, "decay": 0},
        {"lr": float("nan"), "decay": 0},
        {"decay": 0},
        ["lr"],
        7,
    ):
        store._opened.storage.set_trial_system_attr(trial_id, FIXED, values)
        with pytest.raises(UsageError, match=r"study\.db: trial 0: "):
            store.propose(STUDY, 0)


def test_a_study_of_another_program_is_left_alone(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="search")
    own.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(UsageError, match="another program"):
        make_store(tmp_path).begin()
    assert len(own.get_trials()) == 2


@pytest.mark.parametrize(
    ("kills", "trials"), [(6, 16), pytest.param(100, 300, marks=pytest.mark.slow)]
)
def test_kills_while_writing_lose_nothing_and_change_nothing(tmp_path, kills, trials):
    """Also while the file is made; each trial ends once, with the values it would have had."""
    script = [sys.executable, "-m", "tests.search.killed_writer", str(tmp_path)]
    done = subprocess.run(
        [*script, str(kills), str(trials)], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] > kills / 2
    (tmp_path / "whole").mkdir()
    expected = run_search(tmp_path / "whole", trials)
    assert [tuple(end) for end in told["ends"]] == expected
    assert len(expected) == trials
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (trials,)
