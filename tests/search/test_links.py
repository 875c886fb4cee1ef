"""Links in the directory of a search: nothing is written where they lead."""

from __future__ import annotations

import json
import os

import pytest
from omegaconf import OmegaConf

from lit_optim.errors import UsageError
from lit_optim.runs.layout import SEARCH
from lit_optim.runs.locks import lock_run_dir, lock_sweep_dir, take_lock
from lit_optim.search import journal_lock
from lit_optim.search.journal import open_journal
from lit_optim.search.opening import open_storage
from lit_optim.search.running import SearchRun
from lit_optim.search.storages import hold_lock
from lit_optim.search.unusable import StorageFailed
from lit_optim.search.worker import work
from lit_optim.tournament.running import TournamentRun, make_run
from tests.search.made_up import run, search

#: What a search writes, or writes into.
FOLDERS = (
    *("trial=000", "trial=000/seed=0", "trial=000/seed=0/checkpoints", "trial=000/.before"),
    *("optimizer=adamw", "optimizer=adamw/trial=007", "optimizer=adamw/final", ".workers"),
    *(".workers/0", ".submitit"),
)
FILES = (
    *("study.db", ".study.db.lock", "study.db-journal", "study.log", "study.log.lock", ".lock"),
    *("trial=000/.lock", "trial=000/seed=0/.lock", "trial=000/seed=0/log.txt"),
    *("trial=000/seed=0/stop.json", ".workers/0/log.txt", SEARCH, "sweep.json", "tournament.json"),
)


def link(path, target, kind):
    """Link to something there, to nothing, or to either by a relative path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        target.mkdir()
    elif kind != "dangling":
        target.write_text("mine")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent) if kind == "relative" else target)


def read_all(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def runs_of(place):
    """A search and a tournament as their processes have them, before they do anything."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(place)}}})
    one = SearchRun(search(), config, None, fresh=True)
    other = TournamentRun.__new__(TournamentRun)
    SearchRun.__init__(other, search(), config, None, fresh=True)
    return one.begin, one.join, other.begin, other.join


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in FOLDERS for kind in ("folder", "dangling")]
    + [(name, kind) for name in FILES for kind in ("file", "relative", "dangling")],
)
def test_a_search_with_a_link_out_of_it_is_refused(tmp_path, name, kind):
    place, outside = tmp_path / "search", tmp_path / "outside"
    link(place / name, outside / "target", kind)
    before = read_all(outside), read_all(place)
    for act in runs_of(place):
        with pytest.raises(UsageError, match="is a link out of the directory") as refused:
            act()
        assert str(place / name) in str(refused.value)
        assert (read_all(outside), read_all(place)) == before


def test_a_worker_says_so(tmp_path, capfd):
    place = tmp_path / "search"
    place.mkdir()
    line = ["optimizer=adamw", "optimizer.lr=auto", "search.trials=2", "data=digits"]
    (place / SEARCH).write_text(json.dumps({"line": line, "begun": True}))
    (tmp_path / "outside").mkdir()
    (place / "trial=001").symlink_to(tmp_path / "outside")
    with pytest.raises(SystemExit):
        work(place, 1, [], make_run)
    said = capfd.readouterr().err
    assert said.startswith(f"lit-optim: {place / 'trial=001'} is a link out of the directory")
    assert said.count("\n") == 1
    assert not any((tmp_path / "outside").iterdir())


def test_a_link_within_a_search_is_none_of_those(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "latest").symlink_to("a")
    (tmp_path / "gone").symlink_to("nothing")
    with pytest.raises(UsageError, match="has no trials yet"):
        runs_of(tmp_path)[1]()


LOCKS = {
    "a run": (lock_run_dir, ".lock"),
    "a sweep": (lock_sweep_dir, ".lock"),
    "a trial": (take_lock, ".lock"),
    "SQLite": (lambda place: open_storage(None, place), ".study.db.lock"),
    "any file": (lambda place: hold_lock(place / "x", "x").__enter__(), "x"),
}


@pytest.mark.parametrize("kind", ["file", "relative", "dangling"])
@pytest.mark.parametrize("what", LOCKS)
def test_a_lock_that_is_a_link_is_refused(tmp_path, what, kind):
    lock, name = LOCKS[what]
    link(tmp_path / "in" / name, tmp_path / "outside" / "target", kind)
    before = read_all(tmp_path / "outside")
    with pytest.raises((UsageError, OSError), match=f"{name} is a link"):
        lock(tmp_path / "in")
    assert read_all(tmp_path / "outside") == before


def test_a_trial_is_not_locked_through_a_link(tmp_path):
    link(tmp_path / "s" / "trial=001" / ".lock", tmp_path / "outside" / "target", "dangling")
    with pytest.raises((OSError, SystemExit)):
        run(search(), tmp_path / "s")
    assert not (tmp_path / "outside" / "target").exists()


def test_a_journal_is_locked_past_a_link_that_has_the_name_of_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_lock, "SECONDS_TO_WRITE", 0.1)
    for kind in ("file", "dangling"):
        place = tmp_path / kind
        link(place / "study.log.lock", place / "outside" / "target", kind)
        before = read_all(place / "outside")
        open_journal(place / "study.log", print).create_new_study([0], kind)
        assert read_all(place / "outside") == before


@pytest.mark.parametrize("end", ["", "-journal", "-wal", "-shm"])
def test_sqlite_writes_through_no_link(tmp_path, end):
    other, place = tmp_path / "other", tmp_path / "place"
    other.mkdir()
    place.mkdir()
    open_storage(None, other)
    before = read_all(other)
    if end:
        open_storage(None, place)
    for target in (other / "study.db", other / "nothing"):
        path = place / f"study.db{end}"
        path.symlink_to(target)
        with pytest.raises(StorageFailed, match=f"{path}: is a link"):
            open_storage(None, place)
        assert read_all(other) == before
        path.unlink()


@pytest.mark.parametrize("url", ["sqlite:///{}/link", "journal:{}/link"])
def test_a_storage_that_the_user_names_by_a_link_is_where_that_leads(tmp_path, url):
    """So it has one lock, by whichever name it is called."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "study")
    opened = open_storage(url.format(tmp_path / "a"), tmp_path)
    assert opened.name == str(tmp_path / "study")
    assert (tmp_path / "study").is_file()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["link"]
