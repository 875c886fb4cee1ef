"""Describes in a few words how the jobs of a sweep ended."""

from __future__ import annotations

from lit_optim.runs.job import JobRecord
from lit_optim.runs.status import Status
from lit_optim.system import signal_name


def describe_exit(code: int) -> str:
    """Describe how a process ended that did not succeed."""
    return f"killed by {signal_name(-code)}" if code < 0 else f"failed with code {code}"


def describe_job(record: JobRecord) -> str:
    """Describe how a job ended: `completed`, `failed with code 1` and so on."""
    if record.status.has_failed and record.exit_code:
        return describe_exit(record.exit_code)
    if record.status == Status.FAILED and record.message:
        return record.message
    return str(record.status.value)
