"""Starts train.py in a copy of a process that has imported Lightning already.

Importing takes 5 s of a run of 6 s. A server, one for each process of pytest, imports what a run
imports, and forks for each run, in the directory, with the arguments, the environment and the files
of that run.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

#: What takes long to import.
PACKAGES = (
    "lightning.pytorch", "pytorch_lightning", "torch.utils.tensorboard", "sklearn.datasets",
    "hydra.main", "lit_optim.app", "lit_optim.runs.run", "lit_optim.callbacks.ranks",
    "lit_optim.tasks.classifiers", "lit_optim.tasks.classification",
)  # fmt: skip
ROOT = str(Path(__file__).parents[1])
#: Beginnings of the variables that Python and libraries read when they start.
READ_AT_START = ("PYTHON", "OMP", "MKL", "KMP", "TORCH", "CUDA", "HYDRA", "PL_")


class Forks:
    """A server that runs scripts in forks of itself; started when it is first needed."""

    def __init__(self) -> None:
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
        if self._process is None:
            self._environment = dict(os.environ)
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as place:
            out, err = Path(place, "out"), Path(place, "err")
            request = {
                "argv": argv, "cwd": str(cwd), "environment": environment, "timeout": timeout,
                "out": str(out), "err": str(err),
            }  # fmt: skip
            print(json.dumps(request), file=self._process.stdin, flush=True)
            code = json.loads(self._process.stdout.readline())
            texts = out.read_text("utf-8"), err.read_text("utf-8")
        if code is None:
            raise subprocess.TimeoutExpired(argv, timeout, *texts)
        return subprocess.CompletedProcess(argv, code, *texts)

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.communicate(timeout=60)


def _read_at_start(environment: dict[str, str]) -> dict[str, str]:
    return {name: x for name, x in environment.items() if name.startswith(READ_AT_START)}


def serve() -> dict[str, object] | None:
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
        child = os.fork()
        if child == 0:
            answers.close()
            return request
        print(json.dumps(_wait(child, request["timeout"])), file=answers, flush=True)
    return None


def _wait(child: int, timeout: float) -> int | None:
    """The exit code of a process; None if it took too long, and was killed."""
    end = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)


def become(request: dict[str, object]) -> None:
    """Be the process that was asked for, and run its script."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # the TMPDIR of this environment
    script, *_ = sys.argv = request["argv"]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    asked = serve()
    if asked is not None:
        become(asked)
