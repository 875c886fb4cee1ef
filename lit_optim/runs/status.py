"""How a run ends, as its `job.json` says it."""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """How a run ended; a directory without a word on it says `UNKNOWN`."""

    RUNNING = "running"
    COMPLETED = "completed"
    DIVERGED = "diverged"  # a loss or gradients that are not finite
    PRUNED = "pruned"  # stopped by a search
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by a signal, with a checkpoint
    KILLED = "killed"  # it says that it is running, and no process is
    UNKNOWN = "unknown"

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do, and there is a result to read."""
        return self in (Status.COMPLETED, Status.DIVERGED, Status.PRUNED)

    @property
    def counts(self) -> bool:
        """Whether the run's value is compared: it went to its end, diverged, or does not say."""
        return self in (Status.COMPLETED, Status.DIVERGED, Status.UNKNOWN)

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a result."""
        return self in (Status.FAILED, Status.KILLED)

    @property
    def is_unfinished(self) -> bool:
        """Whether it runs, or could go on."""
        return self in (Status.RUNNING, Status.INTERRUPTED)
