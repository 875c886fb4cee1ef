"""The server that forks jobs, and its jobs, of a program that imports nothing and is quick."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lit_optim.runs.job import own_record, read_job, write_job
from lit_optim.runs.locks import HANDED_OVER, is_held
from lit_optim.runs.status import Status
from lit_optim.sweeps import forked_jobs, processes
from lit_optim.sweeps.describing import describe_job
from lit_optim.sweeps.forked_jobs import JobServer, ServerEnded
from lit_optim.sweeps.job_server import run_to_exit
from lit_optim.sweeps.jobs import Job, interrupt_jobs, record_end
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.processes import start_anew
from lit_optim.system import can_fork
from tests.sweeps.waiting import wait_for

pytestmark = pytest.mark.skipif(not can_fork(), reason="jobs are forked on Linux")

#: What a process can see of itself.
LOOK = """
    import atexit, json, logging, multiprocessing, os, signal, sys, tempfile, threading, warnings

    def target(number):
        path = os.readlink(f"/proc/self/fd/{number}")
        return "devices" if path.startswith("/dev/") else os.path.basename(path)

    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    numbers = sorted(map(int, os.listdir("/proc/self/fd")))
    files = {n: target(n) for n in numbers if os.path.exists(f"/proc/self/fd/{n}")}
    json.dump({
        "descriptors": sorted(set(files.values())), "standard": [files[n] for n in (0, 1, 2)],
        "number": len(files),
        "inheritable": len([n for n in files if n > 2 and os.get_inheritable(n)]),
        "argv": sys.argv[:-1], "orig_argv": sys.orig_argv[:-1],
        "main": sys.modules["__main__"].__file__,
        "cwd": os.getcwd(), "path": sys.path, "flags": str(sys.flags),
        "is_leader": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "has_terminal": os.path.exists("/dev/tty") and os.isatty(0),
        "environment": sorted(x for x in os.environ.items() if x[0][-5:] not in ("_LOCK", "_TEST")),
        "handlers": {s.name: str(signal.getsignal(s)) for s in signal.Signals},
        "blocked": status["SigBlk"].strip(), "threads": status["Threads"].strip(),
        "thread": [t.name for t in threading.enumerate()], "filters": str(warnings.filters),
        "logging": [str(h) for h in logging.getLogger().handlers], "umask": os.umask(0o22),
        "process": multiprocessing.current_process().name,
        "parent": multiprocessing.parent_process(),
        "method": multiprocessing.get_start_method(allow_none=True),
        "tempdir": tempfile.gettempdir(), "nice": os.nice(0), "encoding": sys.stdout.encoding,
        "buffering": sys.stdout.line_buffering, "recursion": sys.getrecursionlimit(),
    }, open("look.json", "w"), default=str)
"""


@pytest.fixture
def server(jobs):
    server = JobServer(1)
    server.await_ready(lambda: None)
    yield server
    server.close()


def test_a_fork_sees_what_a_new_process_sees(jobs, server):
    for name, start in (("forked", server.start), ("fresh", lambda order: start_anew(order, 1))):
        assert wait_for(jobs.start(start, name, LOOK).poll) == 0
    seen = {}
    for name in ("forked", "fresh"):
        text = (jobs.where / name / "look.json").read_text().replace(name, "NAME")
        seen[name] = json.loads(text)
        assert (jobs.where / name / "log.txt").read_text() == "imported\n"
    different = {key: (value, seen["fresh"][key]) for key, value in seen["forked"].items()
                 if value != seen["fresh"][key]}  # fmt: skip
    assert not different
    assert seen["forked"]["descriptors"] == [".lock", "devices", "log.txt"]
    assert seen["forked"]["standard"] == ["devices", "log.txt", "log.txt"]
    assert seen["forked"]["is_leader"]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('told')", 1), ("1 / 0", 1),
     ("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9), ("raise SystemExit(256 + 5)", 5),
     ("os.abort()", -6), ("import ctypes; ctypes.string_at(0)", -11), ("raise SystemExit", 0),
     ("os.close(1); os.close(2)", 0), ("raise KeyboardInterrupt", 1)],
)  # fmt: skip
def test_however_a_job_ends_it_hurts_nobody(jobs, server, code, exit_code):
    job = jobs.start(server.start, "bad", code)
    assert wait_for(job.poll) == exit_code
    assert not is_held(jobs.where / "bad")
    log = (jobs.where / "bad" / "log.txt").read_text()
    assert ("told" in log) == ("told" in code)
    assert ("ZeroDivisionError" in log) == ("/ 0" in code)
    assert wait_for(jobs.start(server.start, "good", "print('here')").poll) == 0
    assert (jobs.where / "good" / "log.txt").read_text() == "imported\nhere\n"


def test_what_python_does_at_its_end_is_done(jobs, server):
    code = """
        import atexit, sys, threading, time, weakref
        kept = open("unflushed.txt", "w")
        kept.write("kept")
        binary = open("binary", "wb")
        binary.write(b"kept")
        sys.kept = kept, binary

        def late():
            time.sleep(0.1)
            print("thread")

        threading.Thread(target=late).start()
        atexit.register(print, "exit")

        class Mine:
            def __del__(self):
                print("deleted")

        mine = Mine()
        mine.itself = mine
        del mine
        print("main")
    """
    assert wait_for(jobs.start(server.start, "job", code).poll) == 0
    log = (jobs.where / "job" / "log.txt").read_text()
    assert log.split() == ["imported", "main", "thread", "exit", "deleted"]
    assert (jobs.where / "job" / "unflushed.txt").read_text() == "kept"
    assert (jobs.where / "job" / "binary").read_bytes() == b"kept"


def test_chance_is_of_each_process(jobs, server):
    code = """
        import json, multiprocessing, random, sys, tempfile, uuid
        draws = [random.random(), str(uuid.uuid4()), next(tempfile._get_candidate_names())]
        draws.append(bytes(multiprocessing.current_process().authkey).hex())
        json.dump(draws, open("draws.json", "w"))
    """
    draws = []
    for name in "abc":
        assert wait_for(jobs.start(server.start, name, code).poll) == 0
        draws += json.loads((jobs.where / name / "draws.json").read_text())
    assert len(set(draws)) == 12


def test_a_lock_ends_with_its_job_and_is_nobody_elses(jobs, server):
    held = "import time\nwhile True: time.sleep(0.01)"
    first = jobs.start(server.start, "first", held)
    second = jobs.start(server.start, "second", held)
    assert is_held(jobs.where / "first")
    os.kill(first.pid, signal.SIGKILL)
    assert wait_for(first.poll) == -9
    assert not is_held(jobs.where / "first")
    assert is_held(jobs.where / "second")
    os.killpg(second.pid, signal.SIGKILL)
    assert wait_for(second.poll) == -9


def test_jobs_outlive_their_server(jobs, server):
    job = jobs.start(server.start, "job", "import time; time.sleep(0.3); open('ended', 'w')")
    lost = jobs.start(server.start, "lost", "import time; time.sleep(0.3)")
    record = {"overrides": [], "pid": job.pid, "exit_code": 4, "status": "failed"}
    (jobs.where / "job" / "job.json").write_text(json.dumps(record))
    os.kill(server._process.pid, signal.SIGKILL)
    assert wait_for(lambda: job.poll() if server.has_ended else job.poll() or None) == 4
    assert (jobs.where / "job" / "ended").exists()
    assert wait_for(lost.poll) == -9  # nobody knows better
    order = jobs.order("next", "pass")
    with pytest.raises(ServerEnded):
        server.start(order)
    order.log.close()
    order.lock.close()


def test_a_server_ends_with_its_launcher_and_its_jobs_do_not(jobs, server):
    job = jobs.start(server.start, "job", "import time; time.sleep(0.2); open('ended', 'w')")
    server._socket.close()
    server.has_ended = True
    assert server._process.wait(30) == 0
    wait_for((jobs.where / "job" / "ended").exists)
    assert job.pid != server._process.pid


def test_no_job_begins_that_the_launcher_does_not_know(jobs, server):
    order = jobs.order("job", "open('begun', 'w')")
    os.kill(server._process.pid, signal.SIGSTOP)
    number, message = os.memfd_create("job"), {"job": 0, "overrides": list(order.overrides)}
    os.write(number, json.dumps(message).encode())
    files = [number, order.log.fileno(), order.lock.fileno()]
    forked_jobs.socket.send_fds(server._socket, [b"start"], files)
    server._socket.close()  # killed at this moment
    server.has_ended = True
    os.kill(server._process.pid, signal.SIGCONT)
    server._process.wait(30)
    os.close(number)
    order.log.close()
    order.lock.close()
    wait_for(lambda: not is_held(jobs.where / "job"))
    assert not (jobs.where / "job" / "begun").exists()


def test_a_command_line_may_be_longer_than_a_message(jobs, server):
    code = f"x = {'x' * 1_000_000!r}\nprint(len(x))"
    assert wait_for(jobs.start(server.start, "job", code).poll) == 0
    assert (jobs.where / "job" / "log.txt").read_text() == "imported\n1000000\n"


def test_it_does_not_grow(jobs, server):
    def size():
        status = Path(f"/proc/{server._process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        files = len(os.listdir(f"/proc/{server._process.pid}/fd"))
        return int(fields["VmRSS"].split()[0]), int(fields["Threads"]), files

    def run(number):
        assert wait_for(jobs.start(server.start, f"job{number}", "pass").poll) == 0

    for number in range(20):
        run(number)
    memory, *others = size()
    assert others[0] == 1
    for number in range(20, 220):
        run(number)
    now, *others_now = size()
    assert others_now == others
    assert now - memory < 500  # kB
    assert not server._jobs


def test_ctrl_c_is_heard_while_the_server_imports(jobs):
    server = JobServer(1)

    def interrupted():
        raise KeyboardInterrupt

    os.kill(server._process.pid, signal.SIGSTOP)
    with pytest.raises(KeyboardInterrupt):
        server.await_ready(interrupted)
    server.close()
    assert server._process.returncode == -9


class Presses(list):
    """Signals of Ctrl-C: a second one comes when it is time for it."""

    def __init__(self, is_time):
        super().__init__([signal.SIGINT])
        self.is_time = is_time

    def __len__(self):
        return super().__len__() + self.is_time()


def test_ctrl_c_reaches_each_job_and_a_second_one_kills_it(jobs, server):
    ends = "import time\ntry:\n    open('ready', 'w'); time.sleep(60)\nexcept KeyboardInterrupt:\n"
    good = jobs.start(server.start, "good", f"{ends}    open('saved', 'w'); raise SystemExit(130)")
    bad = jobs.start(server.start, "bad", f"{ends}    open('saved', 'w'); time.sleep(60)")
    for name in ("good", "bad"):
        wait_for((jobs.where / name / "ready").exists)
    running = [Job(PlannedJob((name,), name), jobs.where / name, process, 0.0, {})
               for name, process in (("good", good), ("bad", bad))]  # fmt: skip
    saved = jobs.where / "bad" / "saved"
    interrupt_jobs(running, Presses(lambda: saved.exists() and good.poll() is not None))
    assert (good.poll(), bad.poll()) == (130, -9)
    statuses = [read_job(job.run_dir).status for job in running]
    assert statuses == [Status.INTERRUPTED, Status.KILLED]


def test_a_job_that_ends_without_a_word_has_failed(jobs, server):
    process = jobs.start(server.start, "job", "pass")
    job = Job(PlannedJob((), "job"), jobs.where / "job", process, 0.0, {})
    write_job(job.run_dir, replace(own_record([], {}, {}), pid=process.pid))
    wait_for(lambda: process.poll() is not None)
    record = record_end(job, 0)  # os._exit(0) in the middle, by any library
    assert (record.status, describe_job(record)) == (Status.FAILED, "ended without a result")


def test_no_variable_of_the_server_is_seen_by_a_job(jobs, server):
    code = "print(sorted(k for k in os.environ if k.startswith('LIT_OPTIM')))"
    assert wait_for(jobs.start(server.start, "job", code).poll) == 0
    names = [HANDED_OVER, *(k for k in os.environ if k.startswith("LIT_OPTIM"))]
    told = (jobs.where / "job" / "log.txt").read_text().splitlines()[-1]
    assert set(json.loads(told.replace("'", '"'))) <= {*names, "LIT_OPTIM_THREADS"}


def test_rank_variables_are_not_inherited(monkeypatch):
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "PL_GLOBAL_SEED")
    for name in (*ranks, "PLATFORM"):
        monkeypatch.setenv(name, "1")
    assert not {*ranks} & processes.job_environment(1).keys()
    assert {"PATH", "PLATFORM"} <= processes.job_environment(1).keys()


@pytest.mark.parametrize("error", [RuntimeError("bad"), SystemExit("a text")], ids=str)
def test_a_job_whose_output_takes_nothing_ends_all_the_same(error):
    def fail():
        raise error

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    child = os.fork()
    if child == 0:
        try:
            sys.stderr = Full()
            run_to_exit(fail)
        finally:
            os._exit(77)  # it went on as the server
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
