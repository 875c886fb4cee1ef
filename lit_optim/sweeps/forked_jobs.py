"""Our end of the server that forks jobs (`job_server`)."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lit_optim.runs.layout import JOB
from lit_optim.sweeps.job_server import MESSAGE_BYTES, SERVER
from lit_optim.sweeps.processes import Order, job_environment, own_command
from lit_optim.system import OWN_GROUP, has_ended, kill_group
from lit_optim.untrusted import Unreadable, read_json_mapping

#: For a fork; longer only if the server is stopped.
SECONDS_TO_FORK = 60
KILLED = -9
POLL_SECONDS = 0.1


class ServerEnded(Exception):
    """The server has ended."""


class ForkedJob:
    """A job in a fork of the server, which waits for its end.

    Args:
        server: that forks it.
        run_dir: of the run.
    """

    def __init__(self, server: JobServer, run_dir: Path) -> None:
        self.server, self.run_dir = server, run_dir
        self.pid = 0
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative if a signal ended it; None while it runs."""
        self.server.read(0)
        if self.code is None and self.server.has_ended and has_ended(self.pid):
            self.code = self._read_code()
        return self.code

    def _read_code(self) -> int:
        """The exit code that the run has written itself: nobody has waited for it."""
        try:
            record = read_json_mapping(self.run_dir / JOB)
        except Unreadable:
            return KILLED
        code = record.get("exit_code")
        return code if record.get("pid") == self.pid and isinstance(code, int) else KILLED


class JobServer:
    """A server of forks, which is ready when it has imported everything.

    Args:
        n_jobs: how many jobs run at a time.

    Raises:
        OSError: there is no room for another process.
    """

    def __init__(self, n_jobs: int) -> None:
        self.started = 0
        self.is_ready = self.has_devices = self.has_ended = False
        self._jobs: dict[int, ForkedJob] = {}
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there, TemporaryFile() as output:  # what importing prints is in each log
            self._process = subprocess.Popen(
                own_command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=job_environment(n_jobs) | {SERVER: str(there.fileno())},
                pass_fds=[there.fileno()],
                **OWN_GROUP,
            )
        self._socket = here

    def fileno(self) -> int:
        """The file descriptor of the socket by which it tells what happens."""
        return self._socket.fileno()

    def read(self, seconds: float) -> None:
        """Take in what the server has told; wait for the first of it at most so long."""
        while not self.has_ended and select.select([self._socket], [], [], seconds)[0]:
            seconds = 0
            try:
                message = self._socket.recv(MESSAGE_BYTES)
            except OSError:
                message = b""
            if not message:
                self.has_ended = True
                return
            self._note(json.loads(message))

    def _note(self, told: dict[str, Any]) -> None:
        if "devices" in told:
            self.is_ready, self.has_devices = True, told["devices"]
        elif "pid" in told:
            self._jobs[told["job"]].pid = told["pid"]
        elif "code" in told:
            self._jobs.pop(told["job"]).code = told["code"]

    def await_ready(self, check: Callable[[], None]) -> None:
        """Wait until it has imported everything.

        Args:
            check: called again and again; may raise.

        Raises:
            ServerEnded: before that, or since then.
        """
        while True:
            self.read(0 if self.is_ready else POLL_SECONDS)
            if self.has_ended:
                raise ServerEnded
            if self.is_ready:
                return
            check()

    def start(self, order: Order) -> ForkedJob:
        """Fork a job.

        Raises:
            ServerEnded: no such job was started.
        """
        number = self.started
        job = self._jobs[number] = ForkedJob(self, order.run_dir)
        request = os.memfd_create("job")  # a command line may be longer than a message
        try:
            content = {"job": number, "overrides": [*order.overrides]}
            os.write(request, json.dumps(content).encode())
            handed_over = [request, order.log.fileno(), order.lock.fileno()]
            socket.send_fds(self._socket, [b"start"], handed_over)
        except OSError:
            raise ServerEnded from None
        finally:
            os.close(request)
        deadline = time.monotonic() + SECONDS_TO_FORK
        while not job.pid and not self.has_ended and time.monotonic() < deadline:
            self.read(POLL_SECONDS)
        if not job.pid:
            raise ServerEnded
        self.started += 1
        return job

    def close(self) -> None:
        """End it. Jobs that it has started go on; one that it has not told of does not begin."""
        kill_group(self._process)
        self._process.wait()
        while not self.has_ended:
            self.read(POLL_SECONDS)
        self._socket.close()
