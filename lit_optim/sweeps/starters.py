"""Starts jobs: on the CPU as forks of a process that has imported everything, others anew."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from omegaconf import DictConfig

from lit_optim.sweeps.forked_jobs import JobServer, ServerEnded
from lit_optim.sweeps.processes import Order, Running, start_anew

POLL_SECONDS = 0.1
#: Strategies of Lightning that keep a run in one process.
ONE_PROCESS = ("auto", "single_device", None)


def is_one_cpu_process(cfg: DictConfig, has_devices: Callable[[], bool]) -> bool:
    """Whether a run is a single process on the CPU, and may be forked.

    Args:
        cfg: of the run.
        has_devices: whether Lightning would find something faster than a CPU.
    """
    trainer = cfg.trainer
    alone = trainer.get("devices") in (1, "1", "auto") and trainer.get("num_nodes", 1) == 1
    if not alone or trainer.get("strategy") not in ONE_PROCESS:
        return False
    accelerator = trainer.get("accelerator")
    return accelerator == "cpu" or (accelerator == "auto" and not has_devices())


class JobStarter:
    """Starts jobs, by a server of forks where that is possible.

    Args:
        n_jobs: how many jobs run at a time.
        start_server: called when the first job can be forked; None: all are started anew.
        check: called while the server is awaited; may raise.
    """

    def __init__(
        self,
        n_jobs: int,
        start_server: Callable[[int], JobServer] | None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.n_jobs, self._start_server, self._check = n_jobs, start_server, check
        self._server: JobServer | None = None

    def make_ready(self, cfg: DictConfig) -> bool:
        """Wait for the server if a job needs it; return whether the job can be forked."""
        if self._start_server is None or not is_one_cpu_process(cfg, self._has_devices):
            return False
        return self._find_server() is not None

    def _has_devices(self) -> bool:
        server = self._find_server()
        return server is None or server.has_devices

    def _find_server(self) -> JobServer | None:
        """The server, ready; None where none starts."""
        while self._start_server is not None:
            if self._server is None:
                self._server = self._start_server(self.n_jobs)
            try:
                self._server.await_ready(self._check)
                return self._server
            except ServerEnded:
                self._drop_server(self._server)
        return None

    def _drop_server(self, server: JobServer) -> None:
        server.close()
        self._server = None
        if not server.started:  # it would end again; a job that is started anew tells why
            self._start_server = None

    def start(self, order: Order, is_forked: bool) -> Running:
        """Start a job.

        Args:
            order: what its process gets.
            is_forked: what `make_ready` has returned.

        Raises:
            OSError: there is no room for another process.
        """
        if is_forked and self._server is not None:
            try:
                return self._server.start(order)
            except ServerEnded:
                self._drop_server(self._server)
        return start_anew(order, self.n_jobs)

    def wait(self) -> None:
        """Wait for a moment, or until the server has news."""
        if self._server is None or self._server.has_ended:  # there is no news from there
            time.sleep(POLL_SECONDS)
        else:
            select.select([self._server], [], [], POLL_SECONDS)

    def close(self) -> None:
        """End the server; its jobs go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
