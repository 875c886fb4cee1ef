"""Where the jobs of a sweep come from: a list, or a search that decides as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lit_optim.sweeps.returns import Outcome


class JobSource(Protocol):
    """Gives jobs to a pool, one at a time, and hears of them."""

    @property
    def is_exhausted(self) -> bool:
        """Whether no job will come any more, however those that run end."""

    def take(self) -> Sequence[str] | None:
        """The overrides of the next job to start; None: there is none at the moment."""

    def put_back(self, job: Sequence[str]) -> None:
        """Called for a job that could not start, as a process still runs in its directory."""

    def watch(self, job: Sequence[str], run_dir: Path) -> None:
        """Called now and then while a job runs."""

    def end(self, job: Sequence[str], outcome: Outcome) -> None:
        """Called when a job has ended, or was found done."""
