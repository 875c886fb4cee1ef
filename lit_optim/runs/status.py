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
