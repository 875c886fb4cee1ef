"""The processes of jobs: what each gets, and how a new one is started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from lit_optim.config.places import conf_dir_option
from lit_optim.environment import RANK_VARIABLES
from lit_optim.runs.locks import HANDED_OVER
from lit_optim.system import OWN_GROUP
from lit_optim.threads import limit_threads


class Running(Protocol):
    """The process of a job."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """The exit code, negative if a signal ended it; None while it runs."""


@dataclass(frozen=True)
class Order:
    """What the process of a job gets.

    Args:
        overrides: its command line.
        run_dir: of the run.
        log: for its output.
        lock: of its directory, taken.
    """

    overrides: Sequence[str]
    run_dir: Path
    log: IO[bytes]
    lock: IO[bytes]


def own_command() -> list[str]:
    """Return the command line that starts this program."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else [os.path.abspath(sys.argv[0])]
    return [sys.executable, *program, *conf_dir_option()]


def job_environment(n_jobs: int) -> dict[str, str]:
    """The environment of a job: that of this process, without ranks, with its share of the CPUs."""
    environment = {k: v for k, v in os.environ.items() if not RANK_VARIABLES.fullmatch(k)}
    limit_threads(environment, n_jobs)
    return environment


def start_anew(order: Order, n_jobs: int) -> subprocess.Popen[bytes]:
    """Start a job in a new process.

    Raises:
        OSError: there is no room for another process.
    """
    environment = job_environment(n_jobs)
    handed_over = [order.lock.fileno()] if os.name == "posix" else []
    for number in handed_over:
        environment[HANDED_OVER] = str(number)
    return subprocess.Popen(
        [*own_command(), *order.overrides],
        stdin=subprocess.DEVNULL,
        stdout=order.log,
        stderr=order.log,
        env=environment,
        pass_fds=handed_over,
        **OWN_GROUP,  # the launcher passes Ctrl-C to all ranks of a job, once
    )
