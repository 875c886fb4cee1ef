"""Workers of a search: processes that share its trials, are killed, and lose nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lit_optim.config.composing import as_hydra_override
from lit_optim.config.reading import parse_overrides
from lit_optim.errors import UsageError
from lit_optim.runs.layout import SEARCH
from lit_optim.runs.locks import take_lock
from lit_optim.search.record import has_begun, read_start
from lit_optim.search.worker import composed, work
from lit_optim.tournament.running import make_run
from tests.search.tiny_searches import RUN, SPACE, check_all_ran_once

ROOT = Path(__file__).parents[2]


class Workers:
    """The processes of a search: its parent first, then workers.

    Args:
        place: the directory in which they run; the search is in `search` there.
        line: the overrides of the search.
        typed: those that each worker must be told.
    """

    def __init__(self, place, line, typed=()):
        self.place, self.line, self.typed = place, line, typed
        self.running, self.ended, self.killed = [], [], 0

    def begin(self):
        """Start the search itself, and wait until it can be joined."""
        words = [str(ROOT / "train.py"), "-m", *self.line, "hydra.sweep.dir=search"]
        self._start(words)
        deadline = time.monotonic() + 120
        while not has_begun(self.place / "search"):
            assert self.running[0].poll() is None, self._said(self.running[0])
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def join(self):
        """Start a worker by what an installation puts on the PATH, which is no module."""
        script = self.place / "lit-optim"
        script.write_text("from lit_optim.entry import command\n\ncommand()\n")
        self._start([str(script), "worker", "search", *self.typed])

    def _start(self, words):
        log = self.place / f"worker{len(self.running) + len(self.ended)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.place,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process.log = log
        self.running.append(process)

    def kill(self, process):
        """Kill a process, but not the runs that it has started."""
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed += 1
        self.running.remove(process)
        self.ended.append(process)

    def is_over(self):
        return any(process.poll() is not None for process in self.running)

    def wait(self):
        """Wait for all that run; each must end well."""
        for process in self.running:
            assert process.wait(timeout=300) == 0, self._said(process)

    def _said(self, process):
        return process.log.read_text()

    @property
    def texts(self):
        return [self._said(process) for process in [*self.ended, *self.running]]

    def stop(self):
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def workers(tmp_path):
    made = []

    def make(line, typed=()):
        made.append(Workers(tmp_path, line, typed))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("user_code")
def test_what_a_killed_parent_has_left_is_done_by_a_worker(workers, tmp_path):
    line = [*RUN, SPACE, "search.trials=4", "allow=[user_code]"]
    search = workers(line, ["allow=[user_code]"])
    search.begin()
    search.join()
    search.kill(search.running[0])
    search.wait()
    check_all_ran_once(tmp_path / "search", 4)


STORAGES = ("sqlite", "journal", "grpc", "postgresql")


@pytest.mark.slow
@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize("kind", STORAGES)
def test_four_workers_survive_six_kills_and_each_trial_runs_once(workers, tmp_path, request, kind):
    typed = ["allow=[user_code]"]
    storage = None
    if kind == "journal":
        storage = f"journal:{tmp_path / 'study.log'}"
    elif kind == "grpc":
        storage = request.getfixturevalue("grpc_server").url
    elif kind == "postgresql":
        storage = request.getfixturevalue("postgres").url
    if storage:
        typed.append(f"search.storage={storage}")
    search = workers([*RUN, SPACE, "search.trials=40", "search.sampler=random", *typed], typed)
    rng, start = random.Random(kind), time.monotonic()
    search.begin()
    for _ in range(3):
        search.join()
    while search.killed < 6 and not search.is_over():
        time.sleep(rng.uniform(2, 8))
        if not search.is_over():
            search.kill(rng.choice(search.running))
            search.join()
    search.wait()
    assert search.killed == 6
    check_all_ran_once(tmp_path / "search", 40, storage)
    print(f"{kind}: 40 trials, 6 kills, {time.monotonic() - start:.0f} s")


@pytest.mark.slow
@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize("kind", ["grpc_server", "postgres"])
def test_workers_go_on_when_their_storage_is_killed(workers, tmp_path, request, kind):
    """For 3 s, and for longer than a run takes."""
    server = request.getfixturevalue(kind)
    typed = ["allow=[user_code]", f"search.storage={server.url}"]
    search = workers([*RUN, SPACE, "search.trials=16", *typed], typed)
    search.begin()
    search.join()
    for seconds in (3, 10):
        before = [text.count("completed") for text in search.texts]
        while not all(
            text.count("completed") > count
            for text, count in zip(search.texts, before, strict=True)
        ):
            assert not search.is_over(), search.texts
            time.sleep(0.2)
        server.kill()
        time.sleep(seconds)
        server.start()
    search.wait()
    check_all_ran_once(tmp_path / "search", 16, server.url)
    said = "".join(search.texts)
    assert f"lit-optim: search.storage={server.url} cannot be reached, waiting for it: " in said
    assert f"lit-optim: search.storage={server.url} is back after " in said


def test_a_worker_is_refused_where_there_is_no_search(tmp_path):
    with pytest.raises(UsageError, match=r"search.json: No such file .*is not the directory"):
        work(tmp_path, 1, [], make_run)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "search.storage=journal:/x",
            "a place to keep studies in, which a directory cannot decide",
        ),
        ("hydra/launcher=submitit_local", "hydra/launcher is not a key of a run"),
        ("hydra.sweep.dir=/", "hydra.sweep.dir is not a key of a run"),
    ],
)
def test_the_directory_of_a_search_is_that_of_a_stranger(tmp_path, line, said):
    content = {"line": ["optimizer=adamw", "optimizer.lr=auto", "search.trials=3", line]}
    (tmp_path / SEARCH).write_text(json.dumps(content))
    with pytest.raises(UsageError) as refused:
        work(tmp_path, 1, [], make_run)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_worker_waits_for_a_search_that_is_about_to_begin(tmp_path, capsys):
    content = {"line": ["data=digits", "optimizer=adamw", "optimizer.lr=auto", "search.trials=3"]}
    (tmp_path / SEARCH).write_text(json.dumps(content | {"begun": False}))
    lock = take_lock(tmp_path)
    end = threading.Timer(0.5, lock.close)  # as if the process that begins it were killed
    end.start()
    start = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        work(tmp_path, 1, [], make_run)
    assert (ended.value.code, time.monotonic() - start > 0.4) == (2, True)
    assert "this search has no trials yet" in capsys.readouterr().err
    assert not (tmp_path / "study.db").exists()
    end.join()


def test_a_worker_begins_no_trial_when_the_time_of_the_search_is_over(tmp_path, capsys):
    lines = ["data=digits", "model=linear", "optimizer=adamw", "optimizer.lr=auto"]
    lines += ["search.trials=3", "search.timeout=50"]
    typed = [as_hydra_override(one) for one in parse_overrides(lines)]
    with composed(typed, tmp_path) as (config, compose):
        make_run(typed, config, compose).begin()
    content = json.loads((tmp_path / SEARCH).read_text())
    assert 0 <= time.time() - content["started"] < 50
    (tmp_path / SEARCH).write_text(json.dumps(content | {"started": content["started"] - 100}))
    work(tmp_path, 1, [], make_run)
    assert "search.timeout=50 is over with 0 of 3 trials done" in capsys.readouterr().err
    assert not [*tmp_path.glob("trial=*")]


@pytest.mark.parametrize("started", ["1", None, True, -5, 1e999, [3]])
def test_a_start_that_is_no_time_is_not_known(tmp_path, started):
    (tmp_path / SEARCH).write_text(json.dumps({"started": started}))
    assert read_start(tmp_path) == (1.0 if started is True else 0.0)


def test_a_worker_of_a_search_whose_storage_has_gone_says_so(tmp_path, capsys):
    lines = ["data=digits", "model=linear", "optimizer=adamw", "optimizer.lr=auto"]
    content = {"line": [*lines, "search.trials=3"], "name": "01234567", "begun": True}
    (tmp_path / SEARCH).write_text(json.dumps(content))
    with pytest.raises(SystemExit) as end:
        work(tmp_path, 1, [f"search.storage=journal:{tmp_path}/absent.log"], make_run)
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-optim: ")
    assert "has no study '01234567'" in line
