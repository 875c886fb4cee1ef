"""The processes of a sweep's jobs: how each is started, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_optim.config.paths import quote
from lit_optim.runs.job import JobRecord, complete_job, status_of_exit
from lit_optim.runs.layout import LOG
from lit_optim.runs.status import Status
from lit_optim.sweeps.describing import describe_exit
from lit_optim.sweeps.names import job_key
from lit_optim.sweeps.plan import JobPlan, PlannedJob
from lit_optim.sweeps.processes import Order, Running
from lit_optim.sweeps.starters import JobStarter
from lit_optim.system import interrupt_group, kill_group

SECONDS_TO_END = 45  # for a job to write its checkpoint after Ctrl-C
POLL_SECONDS = 0.1
UNWRITTEN = "how it ended could not be written"


@dataclass
class Job:
    """A job that was started.

    Args:
        planned: what was to be run.
        run_dir: of the run.
        process: that runs it.
        start: when it was started, in seconds of `time.perf_counter`.
        choices: the name of the choice of each group.
    """

    planned: PlannedJob
    run_dir: Path
    process: Running
    start: float
    choices: dict[str, str]


def start_job(plan: JobPlan, starter: JobStarter, planned: PlannedJob) -> Job:
    """Start a job.

    Raises:
        Held: a process runs in its directory still, such as one that outlived its launcher.
        Done: another process has done it meanwhile.
        OSError: no run can be started there.
    """
    config = plan.config_of(planned)
    is_forked = starter.make_ready(config.cfg)
    place = plan.prepare(planned)
    line = [*job_key(planned.overrides), f"hydra.run.dir={quote(place.run_dir)}", *place.overrides]
    with place.lock, (place.run_dir / LOG).open("ab") as log:  # the process has both open too
        start = time.perf_counter()
        process = starter.start(Order(line, place.run_dir, log, place.lock), is_forked)
    return Job(planned, place.run_dir, process, start, config.choices)


def record_end(job: Job, code: int) -> JobRecord:
    """Write how a job ended, unless the run has written it itself.

    Args:
        job: that has ended.
        code: the exit code of its process.
    """
    seconds, message = time.perf_counter() - job.start, "" if code == 0 else describe_exit(code)
    overrides = job.planned.overrides
    try:
        return complete_job(
            job.run_dir, overrides, job.choices, code, seconds, job.process.pid, message
        )
    except OSError:  # a full disk: the job will run again
        status = status_of_exit(code) if code else Status.FAILED
        message = message or UNWRITTEN
        return JobRecord(list(overrides), code, job.choices, status, message)


def interrupt_jobs(running: Sequence[Job], signals: Sequence[int]) -> None:
    """Pass Ctrl-C to the jobs, which write their checkpoints; a second one kills them.

    Args:
        running: the jobs.
        signals: grows with each signal that this process gets.
    """
    for job in running:
        interrupt_group(job.process)
    before, deadline = len(signals), time.monotonic() + SECONDS_TO_END
    while any(job.process.poll() is None for job in running):
        if len(signals) > before or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    for job in running:
        if job.process.poll() is None:
            kill_group(job.process)
        while (code := job.process.poll()) is None:
            time.sleep(POLL_SECONDS)
        record_end(job, code)
