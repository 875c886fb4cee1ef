"""Runs jobs in forks of a process that has imported everything a run needs.

Importing torch and Lightning takes several times as long as a short training. The launcher starts
this program once more, with the number of a socket in the environment: that process imports, and
then forks for each job that the socket asks for. The fork is like a new process of this program in
all that a run can see: arguments, environment, files, session, chance. The server does not
train, so it has a single thread; memory is shared until it is written to.

A fork begins only when the launcher knows its number. So if the server or the launcher is killed,
no job runs that nobody knows of; those that run go on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_optim.runs.locks import HANDED_OVER
from lit_optim.system import fork, start_session

#: The environment variable with the number of the server's socket.
SERVER = "LIT_OPTIM_JOB_SERVER"
MESSAGE_BYTES = 1 << 12
REAP_SECONDS = 0.01
#: What every run imports; what only some import, such as data, is quick.
MODULES = (
    "lit_optim.runs.run",
    "lit_optim.callbacks.ranks",
    "torch.utils.tensorboard",
)


def serve_jobs() -> None:
    """Fork jobs if the environment asks for it; returns in a fork, or where nobody asks.

    In a fork `sys.argv` is that of its job, whose process it is from now on.
    """
    number = os.environ.pop(SERVER, "")
    if not number.isdecimal():
        return
    with socket.socket(fileno=int(number)) as connection:
        connection.set_inheritable(False)
        try:
            import_all()
            has_devices = ask_fork(find_devices)
            if count_threads() > 1:
                os._exit(0)  # a fork would lack them
            gc.collect()
            gc.freeze()  # no fork writes to what has been imported
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            _send(connection, {"devices": has_devices})
            if not _serve(connection):
                os._exit(0)
        except OSError:  # the launcher has ended
            os._exit(0)


def import_all() -> None:
    """Import what a run imports."""
    # as in a run, where Hydra has set up logs before Lightning adds its own handler
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    for module in MODULES:
        import_module(module)
    logging.getLogger().removeHandler(handler)


def find_devices() -> bool:
    """Whether Lightning would find something faster than a CPU."""
    import torch

    return (
        torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    )


def ask_fork(question: Any) -> bool:
    """Ask in a fork: looking for devices may start them, which forks do not survive."""
    pid = fork()
    if pid == 0:
        answer = True
        with contextlib.suppress(Exception):
            answer = question()
        os._exit(int(answer))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def count_threads() -> int:
    """The threads of this process, also of libraries; those of OpenBLAS end with the first fork."""
    return len(os.listdir("/proc/self/task"))


def _serve(connection: socket.socket) -> bool:
    """Fork jobs until the launcher ends; returns True in a fork."""
    jobs: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([connection], [], [], REAP_SECONDS if jobs else None)
        for pid, code in _reap(jobs):
            _send(connection, {"job": jobs.pop(pid), "code": code})
        if not readable:
            continue
        message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        if not message:
            return False
        request = json.loads(_read(files[0]))
        pid = _fork_job(connection, request["job"])
        if pid == 0:
            connection.close()
            _become(request, *files)
            return True
        jobs[pid] = request["job"]
        for file in files:
            os.close(file)


def _send(connection: socket.socket, told: dict[str, Any]) -> None:
    connection.send(json.dumps(told).encode())


def _reap(jobs: dict[int, int]) -> list[tuple[int, int]]:
    """The jobs that have ended, with their exit codes."""
    ended = []
    for pid in jobs:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _read(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def _fork_job(connection: socket.socket, number: int) -> int:
    """Fork; tell the launcher the number of the process before that goes on, in its own session."""
    session, in_session = os.pipe()
    told, tell = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(session)
        os.close(tell)
        start_session()
        os.close(in_session)
        if not os.read(told, 1):  # the server has ended before it could tell
            os._exit(1)
        os.close(told)
        return 0
    os.close(in_session)
    os.close(told)
    os.read(session, 1)
    os.close(session)
    _send(connection, {"job": number, "pid": pid})
    with contextlib.suppress(BrokenPipeError):  # it was killed
        os.write(tell, b"!")
    os.close(tell)
    return pid


def _become(request: dict[str, Any], arguments: int, log: int, lock: int) -> None:
    """Be the process of a job in all that it can see."""
    os.close(arguments)
    os.write(log, _read(1))  # what importing has printed
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ[HANDED_OVER] = str(lock)
    sys.argv += request["overrides"]
    sys.orig_argv += request["overrides"]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
