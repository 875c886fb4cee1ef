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

import atexit
import contextlib
import gc
import io
import json
import logging
import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from lit_optim.runs.locks import HANDED_OVER
from lit_optim.system import fork, start_session
from lit_optim.threads import prepare_threads

#: The environment variable with the number of the server's socket.
SERVER = "LIT_OPTIM_JOB_SERVER"
MESSAGE_BYTES = 1 << 12
#: Files that may hold what is not yet written.
BUFFERED = (io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)
FLUSH_FAILED = 120  # Python's exit code
REAP_SECONDS = 0.01
#: What every run imports; what only some import, such as data, is quick.
MODULES = (
    "lit_optim.runs.run",
    "lit_optim.callbacks.ranks",
    "torch.utils.tensorboard",
)


def serve_jobs(main: Callable[[], object]) -> None:
    """Fork jobs if the environment asks for it, and exit; else return.

    Args:
        main: runs `sys.argv`, which in a fork is that of its job.
    """
    number = os.environ.pop(SERVER, "")
    if not number.isdecimal():
        return
    prepare_threads()
    with socket.socket(fileno=int(number)) as connection, contextlib.suppress(OSError):
        connection.set_inheritable(False)
        import_all()
        fill_caches()
        has_devices = ask_fork(find_devices)
        if count_threads() == 1:  # a fork would lack the others
            gc.collect()
            gc.freeze()  # no fork writes to what has been imported
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            _send(connection, {"devices": has_devices})
            _serve(connection, main)
    os._exit(0)


def import_all() -> None:
    """Import what a run imports."""
    # as in a run, where Hydra has set up logs before Lightning adds its own handler
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    for module in MODULES:
        import_module(module)
    logging.getLogger().removeHandler(handler)


def fill_caches() -> None:
    """Read what is installed and every run reads: Hydra's plugins, its grammar, our signatures.

    A run checks its command line first, which leaves no other traces in a process.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton

    from lit_optim.config.check import check_config
    from lit_optim.config.composing import compose_config

    with contextlib.suppress(Exception):  # of a plugin: each job tells it
        check_config(compose_config([]))
    GlobalHydra.instance().clear()
    Singleton._instances.pop(HydraConfig, None)


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


def _serve(connection: socket.socket, main: Callable[[], object]) -> None:
    """Fork jobs until the launcher ends."""
    jobs: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([connection], [], [], REAP_SECONDS if jobs else None)
        for pid, code in _reap(jobs):
            _send(connection, {"job": jobs.pop(pid), "code": code})
        if not readable:
            continue
        message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        if not message:
            return
        request = json.loads(_read(files[0]))
        pid = _fork_job(connection, request["job"])
        if pid == 0:
            connection.close()
            _become(request, *files)
            run_to_exit(main)
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


def run_to_exit(main: Callable[[], object]) -> NoReturn:
    """Run a program and exit as Python does, but leave its modules to the system.

    To take them down one by one costs half as much as a short training, as each must be copied from
    the server first.
    """
    code = 0
    try:
        main()
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:
        code = 1
        with contextlib.suppress(OSError):  # else this process would go on as the server
            traceback.print_exc()
    try:
        threading._shutdown()  # type: ignore[attr-defined] # waits for threads that are no daemons
        atexit._run_exitfuncs()
        gc.collect()
        for thing in gc.get_objects():  # without those of the server
            if issubclass(type(thing), BUFFERED) and not thing.closed:
                with contextlib.suppress(OSError, ValueError):
                    thing.flush()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            getattr(stream, "buffer", stream).flush()
    except OSError:
        code = code or FLUSH_FAILED
    finally:
        os._exit(code)


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    with contextlib.suppress(OSError):
        print(end.code, file=sys.stderr)
    return 1
