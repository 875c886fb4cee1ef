"""A study that a stranger has made, or that is damaged: one line, or it does no harm."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from functools import cache

import optuna
import pytest

from lit_optim.errors import UsageError
from lit_optim.search import sqlite_files, unusable
from lit_optim.search.data import Choice, Search, Settings, Span, Study, TrialEnd
from lit_optim.search.store import open_store

SPACE = {"lr": Span(1e-4, 1e-1, is_log=True), "width": Span(4, 64, is_whole=True),
         "kind": Choice(("a", 1, True, None))}  # fmt: skip
STUDY = Study("", ("optimizer=adamw",), SPACE)
DEEP = "[" * 200_000
NESTED = "[" * 500 + "]" * 500
ODD = (
    None, "", "WEIRD", "yesterday", "null", "[1, {}]", "{}", '{"name": "os.system"}', DEEP, NESTED,
    '{"name": "FloatDistribution", "attributes": {"low": NaN, "high": 1e999}}', "1" * 5000, b"\xff",
    0, -1, 7, 1 << 62, 0.5, 9e999, -9e999, "\x1b]0;x\x07", "2020-01-01 00:00:00",
)  # fmt: skip
ODD_JSON = (None, "", "x", [], ["x"], {}, [[1]], 0, -1, 7, 1 << 80, 0.5, float("nan"), True)
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT"


def make_store(folder, storage=None, trials=6):
    settings = Settings(trials, sampler="tpe", pruner="median", storage=storage)
    return open_store(Search((), [STUDY], settings, name="mine"), folder)


def fill(store):
    """Five trials, one of each end, and one that is begun."""
    store.begin()
    for number, kind in enumerate(("completed", "diverged", "pruned", "failed", "completed")):
        trial = store.propose(STUDY, number)
        store.report(trial, 10, 0.5 + number)
        store.tell(trial, TrialEnd(kind, None if kind == "failed" else 0.5, {"steps": [100]}))
    store.propose(STUDY, 5)


def go_on(folder, storage=None):
    """What a search does that is resumed; returns what it says where it refuses that."""
    try:
        store = make_store(folder, storage, trials=7)
        store.begin()
        trials = [store.propose(STUDY, number) for number in store.unfinished(STUDY)]
    except UsageError as refused:  # before anything is run
        return str(refused)
    for trial in filter(None, trials):
        store.report(trial, 60, 0.5)
        store.should_prune(trial, 100)
        store.tell(trial, TrialEnd("completed", 0.25))
    for _, end in store.ends(STUDY):
        assert end.value is None or isinstance(end.value, float)
        assert isinstance(end.of_runs("steps"), list)
    store.best(STUDY)
    return ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fill(make_store(folder))
    fill(make_store(folder, f"journal:{folder / 'study.log'}"))
    return folder


def change(whole, folder, script, *values):
    (folder / "study.db").unlink(missing_ok=True)  # the store before may still have it open
    shutil.copy(whole / "study.db", folder)
    with closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        for statement in script.split(";;"):
            connection.execute(statement, values)


@cache
def columns(file):
    with closing(sqlite3.connect(file)) as connection:
        tables = [name for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'")]  # fmt: skip
        return [(table, row[1]) for table in tables
                for row in connection.execute(f"PRAGMA table_info({table})")]  # fmt: skip


@pytest.mark.parametrize("part", range(2))
def test_no_value_of_a_table_is_believed(whole, tmp_path, part):
    chance, said = random.Random(part), []
    for table, column in chance.sample(columns(whole / "study.db"), 15):
        odd = chance.choice(ODD)
        rows = chance.choice((f"WHERE rowid = (SELECT max(rowid) FROM {table})", ""))
        with suppress(sqlite3.IntegrityError):  # a key is always a whole number
            change(whole, tmp_path, f'UPDATE OR IGNORE {table} SET "{column}" = ? {rows}', odd)
        said.append(go_on(tmp_path))
        assert said[-1].isprintable(), (table, column, odd)
    assert sum(map(bool, said)) > 1


@pytest.mark.parametrize("number", range(0, len(ODD), 3))
@pytest.mark.parametrize(
    ("table", "column"),
    [("trials", "state"), ("trial_values", "value"), ("trial_params", "distribution_json"),
     ("trial_user_attributes", "value_json"), ("trial_system_attributes", "value_json")],
)  # fmt: skip
def test_what_a_search_reads_most_is_not_believed(whole, tmp_path, table, column, number):
    change(whole, tmp_path, f"UPDATE OR IGNORE {table} SET {column} = ?", ODD[number])
    assert go_on(tmp_path).isprintable()


@pytest.mark.parametrize("table", ["studies", "trials", "trial_params", "trial_values",
                                   "study_directions", "version_info"])  # fmt: skip
@pytest.mark.parametrize("change_it", ["DELETE FROM", "DROP TABLE"])
def test_what_is_missing_is_one_line(whole, tmp_path, table, change_it):
    change(whole, tmp_path, f"{change_it} {table}")
    assert go_on(tmp_path).isprintable()


@pytest.mark.parametrize(
    ("script", "named"),
    [
        (
            "CREATE TRIGGER t AFTER INSERT ON trials BEGIN INSERT INTO study_user_attributes"
            f"(study_id, key, value_json) {ENDLESS} 1, 'k' || x, '1' FROM c; END",
            "the trigger t",
        ),
        (f"CREATE VIEW more AS {ENDLESS} x FROM c", "the view more"),
        (
            f"DROP TABLE trial_values;; CREATE VIEW trial_values AS {ENDLESS} x AS trial_id FROM c",
            "the view trial_values",
        ),
        ("CREATE VIRTUAL TABLE words USING fts5(x)", "the table words"),
        ("CREATE TABLE songs (name TEXT)", "the table songs"),
        ("CREATE INDEX more ON trials (abs(number))", "the index more"),
        (
            "ALTER TABLE trials ADD COLUMN x AS (abs(number) + 1)",
            "its table trials is not as Optuna makes it: x",
        ),
        (
            "ALTER TABLE trials ADD COLUMN study_name INTEGER DEFAULT (1)",
            "its table trials is not as Optuna makes it: DEFAULT",
        ),
        (
            "ALTER TABLE trials ADD COLUMN study_name INTEGER CHECK (length(zeroblob(99)) = 99)",
            "its table trials is not as Optuna makes it: length",
        ),
        (
            "DROP INDEX ix_trials_study_id;;"
            "CREATE INDEX ix_trials_study_id ON trials (study_id) WHERE number = 1",
            "its index ix_trials_study_id is not as Optuna makes it: WHERE",
        ),
    ],
)
def test_a_file_that_would_run_something_is_refused(whole, tmp_path, script, named):
    change(whole, tmp_path, script)
    before = (tmp_path / "study.db").read_bytes()
    assert named in go_on(tmp_path)
    assert (tmp_path / "study.db").read_bytes() == before


def test_a_file_that_is_too_large_or_takes_too_long_is_refused(whole, tmp_path, monkeypatch):
    shutil.copy(whole / "study.db", tmp_path)
    monkeypatch.setattr(sqlite_files, "MOST_STEPS", 100)
    monkeypatch.setattr(sqlite_files, "STEPS_BETWEEN", 10)
    assert go_on(tmp_path).endswith("study.db: interrupted")
    monkeypatch.setattr(sqlite_files, "MOST_BYTES", 1000)
    assert "has more than 1,000 bytes" in go_on(tmp_path)


def test_a_journal_that_names_another_file_removes_nothing(whole, tmp_path):
    """SQLite removes the journal that one of several databases names, once it is undone."""
    shutil.copy(whole / "study.db", tmp_path)
    (tmp_path / "study.db-journal").write_bytes(bytes(512) + sqlite_files.NAMES_ANOTHER)
    assert "names another journal" in go_on(tmp_path)


def keys_of(value, path=()):
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from keys_of(one, (*path, key))


@pytest.mark.parametrize("part", range(2))
def test_no_value_of_a_journal_is_believed(whole, tmp_path, part):
    chance, said = random.Random(part), []
    file = tmp_path / "study.log"
    lines = (whole / "study.log").read_text().splitlines()
    for number, line in enumerate(lines):
        changed = json.loads(line)
        *path, key = chance.choice([*keys_of(changed)])
        inner = changed
        for name in path:
            inner = inner[name]
        inner[key] = odd = chance.choice(ODD_JSON)
        file.write_text("\n".join([*lines[:number], json.dumps(changed), *lines[number + 1 :], ""]))
        said.append(go_on(tmp_path, f"journal:{file}"))
        assert said[-1].isprintable(), (line, path, key, odd)
    assert sum(map(bool, said)) > 5


def test_errors_of_our_own_are_not_blamed_on_a_storage(whole, tmp_path, monkeypatch):
    shutil.copy(whole / "study.db", tmp_path)

    def fail(*arguments):
        raise LookupError("ours")

    monkeypatch.setattr("lit_optim.search.store.propose", fail)
    store = make_store(tmp_path, trials=7)
    store.begin()
    with pytest.raises(LookupError, match="ours"):
        store.propose(STUDY, 6)


def test_older_versions_of_optuna_have_fewer_errors(monkeypatch):
    """Optuna 4.0 raises a RuntimeError where a trial has ended."""
    monkeypatch.delattr(optuna.exceptions, "UpdateFinishedTrialError")
    spec = importlib.util.spec_from_file_location("unusable_before", unusable.__file__)
    before = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(before)
    assert RuntimeError in before.ANSWERS
    assert RuntimeError not in unusable.ANSWERS
