"""Where the jobs of a sweep come from: a list, or a search that decides as it goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.returns import Outcome


class JobSource(Protocol):
    """Gives jobs to a pool, one at a time, and hears of them."""

    @property
    def is_exhausted(self) -> bool:
        """Whether no job will come any more, however those that run end."""

    def take(self) -> PlannedJob | None:
        """The next job to start; None: there is none at the moment."""

    def put_back(self, job: PlannedJob) -> None:
        """Called for a job that could not start, as a process still runs in its directory."""

    def watch(self, job: PlannedJob, run_dir: Path) -> None:
        """Called now and then while a job runs."""

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """Called when a job has ended, or was found done."""


class JobList:
    """Gives the jobs of a list.

    Args:
        jobs: in the order in which they start.
    """

    def __init__(self, jobs: Iterable[PlannedJob]) -> None:
        self._waiting = deque(jobs)
        self.outcomes: dict[tuple[str, ...], Outcome] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether all jobs have been given."""
        return not self._waiting

    def take(self) -> PlannedJob | None:
        """The next job."""
        return self._waiting.popleft() if self._waiting else None

    def leave_out(self, is_done: Callable[[PlannedJob], bool]) -> None:
        """Leave out the jobs of which a function says that they are done."""
        self._waiting = deque(job for job in self._waiting if not is_done(job))

    def put_back(self, job: PlannedJob) -> None:
        """Give a job again, after the others."""
        self._waiting.append(job)

    def watch(self, job: PlannedJob, run_dir: Path) -> None:
        """Does nothing: what happens in a job is its own affair."""

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """Keep how a job ended, by its overrides."""
        self.outcomes[job.overrides] = outcome
