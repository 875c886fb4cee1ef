"""Servers of storages for tests: PostgreSQL, and Optuna's own over gRPC; both can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

GRPC = """
import sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
from optuna.storages import RDBStorage, run_grpc_proxy_server
# another process may have the file for a moment
storage = RDBStorage(sys.argv[1], engine_kwargs={"connect_args": {"timeout": 60}})
run_grpc_proxy_server(storage, host="localhost", port=int(sys.argv[2]))
"""
#: Debian's, which are not in PATH.
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def await_port(port, process):
    """Wait until a server listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        with socket.socket() as one:
            if one.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(port)


class GrpcServer:
    """A storage in a process of its own, in a file of SQLite.

    Args:
        folder: for the file.
    """

    def __init__(self, folder):
        self.path, self.port = folder / "served.db", free_port()
        self.url = f"grpc://localhost:{self.port}"
        self.start()

    def start(self):
        words = [sys.executable, "-c", GRPC, f"sqlite:///{self.path}", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        await_port(self.port, self.process)

    def kill(self):
        self.process.kill()
        self.process.communicate()


class Postgres:
    """A database of its own.

    Args:
        folder: for its files; of the user who runs it.
    """

    def __init__(self, folder):
        self.binaries, self.port = BINARIES[-1], free_port()
        self.data, self.log = folder / "data", folder / "log"
        self.user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        if self.user:
            shutil.chown(folder, self.user)
        self._run("initdb", "-D", self.data, "-U", "me", "-A", "trust", "--no-sync")
        self.url = f"postgresql+psycopg://me@localhost:{self.port}/postgres"
        self.start()

    def _run(self, name, *words):
        command = [str(self.binaries / name), *map(str, words)]
        subprocess.run(
            command, user=self.user, cwd=self.data.parent, check=True, capture_output=True
        )

    def start(self):
        words = ["-D", self.data, "-p", self.port, "-k", self.data.parent, "-F"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.binaries / "postgres"), *map(str, words)],
                user=self.user,
                cwd=self.data.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await_port(self.port, self.process)

    def kill(self):
        """End all of it at once, as the loss of a machine would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        time.sleep(0.2)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
