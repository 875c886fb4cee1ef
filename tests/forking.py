"""Starts train.py in a copy of a process that has imported Lightning already.

Importing takes 5 s of a run of 6 s. A server, one for each process of pytest, imports what a run
imports, and forks for each run, in the directory, with the arguments, the environment and the files
of that run. A sweep, which will start train.py itself, has a spare: a child that
was forked before it did anything, and becomes the first such process.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from contextlib import suppress
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

#: What takes long to import.
PACKAGES = (
    "lightning.pytorch", "pytorch_lightning", "torch.utils.tensorboard", "sklearn.datasets",
    "hydra.main", "lit_optim.app", "lit_optim.runs.run", "lit_optim.callbacks.ranks",
    "lit_optim.tasks.classifiers", "lit_optim.tasks.classification",
)  # fmt: skip
ROOT = str(Path(__file__).parents[1])
#: Beginnings of the variables that Python and libraries read when they start.
READ_AT_START = ("PYTHON", "OMP", "MKL", "KMP", "TORCH", "CUDA", "HYDRA", "PL_")
#: Variables that a run sets for its processes, and that change nothing in a copy of this one: how
#: long threads wait for work, and the seed that Lightning reads later.
SET_BY_RUNS = (
    "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "PL_GLOBAL_SEED", "PL_SEED_WORKERS",
)  # fmt: skip
#: Arguments of a command that will start train.py again: as the server of its jobs, as a rank.
STARTS_MORE = ("-m", "trainer=ddp_cpu")
MESSAGE_BYTES = 1 << 18


class Forks:
    """A server that runs scripts in forks of itself; started when it is first needed.

    Args:
        root: of the copy of the project whose modules it imports.
    """

    def __init__(self, root: Path = Path(ROOT)) -> None:
        self._root = root
        self._process: subprocess.Popen[str] | None = None
        self._environment: dict[str, str] = {}

    def can_run(self, environment: dict[str, str]) -> bool:
        """Whether a fork would be the same as a new process: what is read at start is equal."""
        known = self._environment if self._process else dict(os.environ)
        return hasattr(os, "fork") and _read_at_start(environment) == _read_at_start(known)

    def run(
        self, argv: list[str], cwd: Path, environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a script with arguments, as subprocess.run does."""
        process = self.start(argv, cwd, environment)
        try:
            texts = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            texts = process.communicate()
            raise subprocess.TimeoutExpired(argv, timeout, *texts) from None
        return subprocess.CompletedProcess(argv, process.wait(), *texts)

    def start(self, argv: list[str], cwd: Path, environment: dict[str, str]) -> Started:
        """Start a script in a session of its own."""
        if self._process is None:
            self._environment = dict(os.environ)
            self._process = subprocess.Popen(
                [sys.executable, str(self._root / "tests" / "forking.py")],
                env=self._environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        place = tempfile.TemporaryDirectory()
        out, err = Path(place.name, "out"), Path(place.name, "err")
        request = {
            "argv": argv, "cwd": str(cwd), "environment": environment,
            "out": str(out), "err": str(err),
        }  # fmt: skip
        return Started(self, self.ask(request), argv, place)

    def ask(self, request: dict[str, Any]) -> Any:
        """Ask the server; return its answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.communicate(timeout=60)


class Started:
    """A process that was started, much as `subprocess.Popen` is.

    Args:
        forks: whose server waits for it.
        pid: its number.
        argv: its command line.
        place: of what it prints.
    """

    def __init__(
        self, forks: Forks, pid: int, argv: list[str], place: tempfile.TemporaryDirectory[str]
    ) -> None:
        self._forks, self.pid, self._argv, self._place = forks, pid, argv, place
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self._forks.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
        """The exit code, once it has ended."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self._argv, timeout)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float = math.inf) -> tuple[str, str]:
        """What it has printed and its errors, once it has ended."""
        self.wait(timeout)
        out, err = (Path(self._place.name, name) for name in ("out", "err"))
        return out.read_text("utf-8"), err.read_text("utf-8")

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it and what it has started in its session."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)


def _read_at_start(environment: dict[str, str]) -> dict[str, str]:
    return {name: x for name, x in environment.items() if name.startswith(READ_AT_START)}


def serve() -> dict[str, Any] | None:
    """Answer requests until there are no more; in the fork that is to run one, return it."""
    sys.path[0] = ROOT  # instead of this directory, which has a package called lightning
    handler = logging.NullHandler()  # as in a run, where Hydra has set up logs before Lightning's
    logging.getLogger().addHandler(handler)
    for package in PACKAGES:
        with suppress(ModuleNotFoundError):
            import_module(package)
    logging.getLogger().removeHandler(handler)
    del sys.path[0]
    gc.collect()
    gc.freeze()  # else each fork looks through all that has been imported, and copies it
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            done, status = os.waitpid(request["poll"], os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
            print(json.dumps(code), file=answers, flush=True)
            continue
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            answers.close()
            os.setsid()
            os.close(told)
            os.close(tell)
            return request
        os.close(tell)
        os.read(told, 1)  # until it has its session
        os.close(told)
        print(json.dumps(child), file=answers, flush=True)
    return None


class Spare:
    """A child of this process that waits to become another one.

    Args:
        environment: that this process was asked to have.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            self._wait_in(there)
        there.close()

    def _wait_in(self, told: socket.socket) -> None:
        """Become what the parent says, or end with it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is the parent's
        message, files, _, _ = socket.recv_fds(told, MESSAGE_BYTES, 10)
        if not message:
            os._exit(0)
        request = json.loads(message)
        keep = [os.dup2(file, 200 + place, False) for place, file in enumerate(files)]
        ready = os.dup2(told.fileno(), 200 + len(files), False)
        told.detach()
        os.closerange(3, 200)
        for file, number in zip(keep, request["numbers"], strict=True):
            os.dup2(file, number)
            os.close(file)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request["new_session"]:
            os.setsid()
        os.chdir(request["cwd"])
        os.write(ready, b"!")
        os.close(ready)
        raise Become(request)

    def adopt(self, given: dict[str, Any]) -> bool:
        """Let it be the process that was asked for; return whether it can be.

        Args:
            given: the arguments of `subprocess.Popen._execute_child`.
        """
        argv, environment = [*map(os.fspath, given["args"])], given["env"]
        environment = dict(os.environ) if environment is None else dict(environment)
        plain = {k: v for k, v in environment.items() if k not in SET_BY_RUNS}
        before = {k: v for k, v in self._environment.items() if k not in SET_BY_RUNS}
        is_train = argv[:2] == [sys.executable, str(Path(ROOT, "train.py"))]
        if not is_train or given["shell"] or _read_at_start(plain) != _read_at_start(before):
            return False
        ends = (given["p2cread"], given["c2pwrite"], given["errwrite"])
        files = {number: number if end == -1 else end for number, end in enumerate(ends)}
        files |= {number: number for number in given["pass_fds"]}
        request = {
            "argv": argv, "environment": environment, "numbers": [*files],
            "cwd": os.fspath(given["cwd"] or Path.cwd()),
            "new_session": given["start_new_session"],
        }  # fmt: skip
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files.values()))
        self._socket.sendmsg([json.dumps(request).encode()], [rights])
        return self._socket.recv(1) == b"!"


class Become(BaseException):
    """Raised in a spare: what it is to become.

    Args:
        request: the command line, and the environment.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__()
        self.request = request


def keep_spare(environment: dict[str, str]) -> None:
    """Let the first train.py that this process starts be a spare."""
    execute = subprocess.Popen._execute_child
    names = signature(execute)
    spare: Spare | None = Spare(environment)

    def execute_child(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal spare
        given = names.bind(self, *args, **kwargs).arguments
        if spare is None or os.getpid() != parent or not spare.adopt(given):
            execute(self, *args, **kwargs)
            return
        self.pid, spare = spare.pid, None
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in ends))

    parent = os.getpid()
    subprocess.Popen._execute_child = execute_child


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for, and run its script."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.chdir(str(request["cwd"]))
    if any(word.startswith(STARTS_MORE) for word in request["argv"][1:]):
        keep_spare(request["environment"])
    run_script(request["argv"], request["environment"])


def run_script(argv: list[str], environment: dict[str, str]) -> None:
    """Run a script as Python does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup, around the tests, ignores
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the TMPDIR of this environment
    sys.argv, sys.orig_argv = argv, [sys.executable, *argv]
    sys.path.insert(0, str(Path(argv[0]).parent))
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    asked = serve()
    if asked is not None:
        try:
            become(asked)
        except Become as other:
            asked = other.request
    if asked is not None and "new_session" in asked:
        if (ranks := sys.modules.get("lit_optim.callbacks.ranks")) is not None:
            ranks.PARENT = os.getppid()  # not that of the server which has imported it
        run_script(asked["argv"][1:], asked["environment"])
