"""The journal file: what a kill leaves behind is mended, and nothing of others is touched."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from lit_optim.search import journal_lock
from lit_optim.search.journal import open_journal
from lit_optim.search.journal_lock import JournalLock
from lit_optim.untrusted import Unreadable

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def told():
    return []


def by_optuna(path):
    """The values of the trials that Optuna itself finds in a journal."""
    [study] = optuna.get_all_study_summaries(JournalStorage(JournalFileBackend(str(path))))
    study = optuna.load_study(
        study_name=study.study_name, storage=JournalStorage(JournalFileBackend(str(path)))
    )
    return [trial.value for trial in study.trials]


def add(storage, value):
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    study.add_trial(optuna.create_trial(value=value))


def test_half_a_line_is_cut_off_and_told_at_whatever_byte_it_ends(tmp_path, told):
    path = tmp_path / "study.log"
    storage = open_journal(path, told.append)
    add(storage, 1.0)
    before = path.stat().st_size
    add(storage, 2.0)
    content = path.read_bytes()
    assert not told
    rng = random.Random(0)
    ends = {before + 1, len(content) - 1, *rng.sample(range(before + 2, len(content) - 1), 8)}
    for end in sorted(ends):
        path.write_bytes(content[:end])
        told.clear()
        add(open_journal(path, told.append), 3.0)
        half = end - (content[:end].rindex(b"\n") + 1)
        expected = [f"{path}: cut off {half} bytes of a line that was not written whole"]
        assert told == (expected if half else [])
        values = by_optuna(path)
        assert values[0] == 1.0 and values[-1] == 3.0  # noqa: PT018
    # where nothing else is, and where another process lives on
    path.write_bytes(content[:20])
    told.clear()
    other = open_journal(path, told.append)
    add(other, 4.0)
    with path.open("ab") as file:
        file.write(content[:30])
    add(other, 5.0)
    assert by_optuna(path) == [4.0, 5.0]
    assert [line.partition("cut off ")[2][:8] for line in told] == ["20 bytes", "30 bytes"]


def test_half_a_line_that_is_being_written_is_left_alone(tmp_path, told):
    path = tmp_path / "study.log"
    storage = open_journal(path, told.append)
    add(storage, 1.0)
    line = path.read_bytes().splitlines(keepends=True)[-1]

    def write_slowly():  # as a program that ignores the lock
        with path.open("ab", buffering=0) as file:
            for place in range(0, len(line), 20):
                file.write(line[place : place + 20])
                time.sleep(0.03)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    time.sleep(0.02)
    add(storage, 2.0)
    writer.join()
    assert not told
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_full_disk_leaves_nothing_of_a_line(tmp_path, told, monkeypatch):
    path = tmp_path / "study.log"
    storage = open_journal(path, told.append)
    add(storage, 1.0)
    before, write = path.read_bytes(), os.write

    def write_half(handle, content):
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half)
        with pytest.raises(OSError, match="No space left"):
            add(storage, 2.0)
    assert path.read_bytes() == before
    add(storage, 3.0)
    assert by_optuna(path) == [1.0, 3.0]


FOREIGN = {
    "text": "my diary",
    "json": '{"optuna": 1}',
    "unlike": '{"op_code":0}\n',
    "damage": '{"op_code":0,"worker_id":"a","study_name":"s","directions":[1]}\n{"op_c\n',
    "deep": '{"op_code":' + "[" * 100_000 + "\n",
    "binary": "SQLite format 3\0",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_journal_is_refused_and_left_as_it_is(tmp_path, told, name):
    path = tmp_path / "study.log"
    path.write_text(FOREIGN[name])
    with pytest.raises(Unreadable, match=rf"^{path}(:\d)?: is not a") as refused:
        open_journal(path, told.append)
    assert "\n" not in str(refused.value)
    assert path.read_text() == FOREIGN[name]
    assert [one.name for one in tmp_path.iterdir()] == ["study.log"]


def test_neither_a_pipe_nor_a_folder_is_waited_for(tmp_path, told):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(Unreadable, match="is not a regular file"):
            open_journal(path, told.append)


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def seconds_to_acquire(lock):
    start = time.monotonic()
    lock.acquire()
    lock.release()
    return time.monotonic() - start


def test_the_lock_of_a_dead_process_is_cleared_at_once(tmp_path, told, ended):
    path = tmp_path / "study.log"
    lock = JournalLock(path, told.append)
    _, _, place, token = lock_text(lock).split()
    start = journal_lock._start_of(os.getpid())
    # its number is free, or another process has it: this one, which began at another time
    for pid, begun in ((ended, start), (os.getpid(), str(int(start) + 1))):
        lock.path.write_text(f"{pid} {begun} {place} {token}")
        told.clear()
        lock.acquire()
        assert told == [f"{lock.path}: cleared the lock of process {pid} that has ended"]
        lock.release()
    assert not [*tmp_path.iterdir()]


def lock_text(lock):
    lock.acquire()
    try:
        return lock.path.read_text()
    finally:
        lock.release()


def test_the_lock_of_a_process_that_lives_is_waited_for(tmp_path, told, monkeypatch):
    path = tmp_path / "study.log"
    first, second = JournalLock(path, told.append), JournalLock(path, told.append)
    monkeypatch.setattr(journal_lock, "SECONDS_TO_WRITE", 0.05)  # counts for other machines
    first.acquire()
    got = threading.Event()
    waiting = threading.Thread(target=lambda: (second.acquire(), got.set()))
    waiting.start()
    assert not got.wait(0.4)
    first.release()
    assert got.wait(10)
    waiting.join()
    second.release()
    assert not told
    # but not forever
    monkeypatch.setattr(journal_lock, "SECONDS_OF_THE_LIVING", 0.05)
    first.acquire()
    second.acquire()
    first.release()  # is not its own any more
    assert second.path.exists()
    second.release()
    assert len(told) == 1


@pytest.mark.parametrize("whose", ["of another machine", "of Optuna", "of a link to nothing"])
def test_a_lock_of_others_is_cleared_when_nothing_happens(tmp_path, told, monkeypatch, whose):
    path = tmp_path / "study.log"
    lock = JournalLock(path, told.append)
    if whose == "of Optuna":
        path.touch()
        JournalFileSymlinkLock(str(path)).acquire()
    elif whose == "of a link to nothing":
        lock.path.symlink_to(tmp_path / "nothing")
    else:
        pid, start, _, token = lock_text(lock).split()
        lock.path.write_text(f"{pid} {start} elsewhere/pid:[1] {token}")
    monkeypatch.setattr(journal_lock, "SECONDS_TO_WRITE", 0.2)
    assert seconds_to_acquire(lock) >= 0.2
    assert len(told) == 1
    assert not lock.path.is_symlink() and not lock.path.exists()  # noqa: PT018


def test_optuna_waits_for_our_lock(tmp_path, told):
    path = tmp_path / "study.log"
    path.touch()
    ours, theirs = JournalLock(path, told.append), JournalFileSymlinkLock(str(path))
    ours.acquire()
    got = threading.Event()
    waiting = threading.Thread(target=lambda: (theirs.acquire(), got.set()))
    waiting.start()
    assert not got.wait(0.2)
    ours.release()
    assert got.wait(10)
    waiting.join()
    theirs.release()


def test_a_new_lock_is_put_back_if_it_was_cleared_for_an_old_one(tmp_path, told):
    path = tmp_path / "study.log"
    first, second = JournalLock(path, told.append), JournalLock(path, told.append)
    first.acquire()
    old = second._look()
    first.release()
    first.acquire()
    second._clear(old)
    assert not told
    assert first.path.read_text() == first._text
    first.release()
    assert not first.path.exists()


def test_without_hard_links_there_is_a_lock_as_well(tmp_path, told, monkeypatch):
    def link(*arguments, **more):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "study.log"
    storage = open_journal(path, told.append)
    add(storage, 1.0)
    assert by_optuna(path) == [1.0]
    assert [one.name for one in tmp_path.iterdir()] == ["study.log"]


def test_writers_at_the_same_time_write_whole_lines(tmp_path, told):
    path = tmp_path / "study.log"
    add(open_journal(path, told.append), 0.0)

    def write(number):
        storage = open_journal(path, told.append)
        for place in range(10):
            add(storage, 10.0 * number + place + 1)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(by_optuna(path)) == [float(value) for value in range(41)]
    assert not told


WRITER = """
import sys
from pathlib import Path
import optuna
from lit_optim.search.journal import open_journal
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = open_journal(Path(sys.argv[1]), lambda line: None)
study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
count = 0
while True:
    trial = optuna.create_trial(value=0.0, user_attrs={"writer": sys.argv[2], "text": "x" * 9000})
    study.add_trial(trial)
    count += 1
    print(count, flush=True)
"""


@pytest.mark.slow
def test_writers_are_killed_at_random_and_nothing_that_was_written_is_lost(tmp_path, told):
    path, rng, promised = tmp_path / "study.log", random.Random(0), {}
    root = Path(__file__).parents[2]
    for round_number in range(12):
        names = [f"{round_number}.{place}" for place in range(3)]
        writers = {
            name: subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), name], cwd=root, stdout=subprocess.PIPE
            )
            for name in names
        }
        for writer in writers.values():
            writer.stdout.readline()
        for name, writer in writers.items():
            time.sleep(rng.uniform(0, 0.2))
            writer.send_signal(signal.SIGKILL)
            rest = writer.communicate()[0].split()
            promised[name] = int(rest[-1]) if rest else 1
    start = time.monotonic()
    study = optuna.load_study(study_name="s", storage=open_journal(path, told.append))
    assert time.monotonic() - start < 10
    found = [trial.user_attrs["writer"] for trial in study.trials]
    for name, count in promised.items():
        assert found.count(name) >= count  # one more, if it was killed before it could say so
        assert found.count(name) <= count + 1
