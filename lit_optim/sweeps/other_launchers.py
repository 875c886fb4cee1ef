"""Runs a sweep by a launcher that is not ours: Hydra's basic one, joblib, submitit, Ray.

Such a launcher only starts the jobs. Their names, directories, what is done already and what can go
on from a checkpoint are decided here, in the process of the sweep, as for our own launcher; so a
sweep looks the same however it is run, and may be resumed by another launcher.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from lit_optim.config.paths import quote
from lit_optim.errors import escape, first_line, how_many
from lit_optim.interrupts import interruptible, say_no_more
from lit_optim.printing import Console
from lit_optim.results.reading import read_result
from lit_optim.runs.job import JobRecord, complete_job, own_record, read_job
from lit_optim.runs.layout import JOB
from lit_optim.runs.locks import Held, is_held
from lit_optim.runs.status import Status
from lit_optim.streams import sign
from lit_optim.sweeps.names import Overrides, job_key
from lit_optim.sweeps.plan import Done, Place, PlannedJob, SweepPlan
from lit_optim.sweeps.returns import Outcome, is_basic_sweeper, make_returns
from lit_optim.system import usable_cpus
from lit_optim.threads import shared_cpus

POLL_SECONDS = 0.5
FAILED = 1  # the exit code of a run that could not begin


class JobBatches:
    """Lets another launcher run what is left of a sweep.

    Args:
        inner: that launcher.
        config: of the sweep, with Hydra's part.
        compose: Hydra's function that composes the configuration of a job.
    """

    def __init__(self, inner: Launcher, config: DictConfig, compose: Any) -> None:
        self.inner, self.config, self.compose = inner, config, compose
        self.console = Console(stderr=True)
        self.results: list[Mapping[str, Any] | None] = []  # of all batches of jobs

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs.

        Returns:
            One for each of them, in their order, as `ProcessLauncher` does.

        Raises:
            SystemExit: with a line: no run can be started.
        """
        plan = SweepPlan(self.config, self.compose, job_overrides, initial_job_idx)
        outcomes: dict[Overrides, Outcome] = {}
        try:
            plan.record()
            waiting = self._launch_some(plan, plan.jobs, outcomes, initial_job_idx)
            while waiting:
                time.sleep(POLL_SECONDS)  # for jobs that outlived their launcher
                waiting = self._launch_some(plan, waiting, outcomes, initial_job_idx)
        except OSError as error:
            raise _end(f"{plan.sweep_dir}: no run can be started there: {error.strerror}") from None
        is_grid, earlier = is_basic_sweeper(self.config), self.results
        self.results = [*earlier, *(outcome.result for outcome in outcomes.values())]
        return make_returns(job_overrides, outcomes, is_grid, earlier)

    def _launch_some(
        self,
        plan: SweepPlan,
        waiting: Sequence[PlannedJob],
        outcomes: dict[Overrides, Outcome],
        first: int,
    ) -> list[PlannedJob]:
        """Run the jobs whose directories are free; return those that are to be tried again."""
        places: dict[PlannedJob, Place] = {}
        held = []
        for job in waiting:
            record = plan.find_done(job)
            if record is not None:
                outcomes[job.overrides] = _known(plan, job, record)
                continue
            try:
                place = plan.prepare(job)
            except (Held, Done):  # one that outlived its launcher, also just now
                held.append(job)
                continue
            (place.run_dir / JOB).unlink(missing_ok=True)  # of an earlier start
            place.lock.close()  # the run takes it in its own process
            places[job] = place
        if outcomes and len(waiting) == len(plan.jobs):
            self.console.print(f"{len(outcomes)} of {how_many(len(plan.jobs), 'run')} already done")
        if places:
            ended = self._launch_prepared(plan, places, first)
            outcomes.update(ended)
            held += [job for job in places if job.overrides not in ended]
        return held

    def _launch_prepared(
        self, plan: SweepPlan, places: Mapping[PlannedJob, Place], first: int
    ) -> dict[Overrides, Outcome]:
        """Run jobs; those that a broken pool of processes has not begun are left out."""
        lines = [
            [
                *job_key(job.overrides),
                f"hydra.sweep.subdir={quote(place.run_dir.name)}",
                *place.overrides,
            ]
            for job, place in places.items()
        ]
        run_dirs = [place.run_dir for place in places.values()]
        start = time.perf_counter()
        problem = ""
        returned: Sequence[JobReturn | None] = [None] * len(places)
        with share_of_cpus(self.config.hydra.launcher, len(places)), interruptible():
            try:
                returned = self.inner.launch(lines, first)
            except Exception as error:  # a process was lost, and with it what others returned
                problem = first_line(error)
                returned = wait_for_others(error) or returned
                while any(map(is_held, run_dirs)):
                    time.sleep(POLL_SECONDS)
                if not any((run_dir / JOB).exists() for run_dir in run_dirs):
                    raise _end(f"no job was started: {problem}") from error
        ended = {}
        for (job, place), one in zip(places.items(), returned, strict=True):
            if one is None and self.has_pool and not (place.run_dir / JOB).exists():
                continue
            config, seconds = plan.config_of(job), time.perf_counter() - start
            record = _settle(place.run_dir, one, job.overrides, config.choices, seconds, problem)
            result = read_result(place.run_dir) if record.is_done else None
            ended[job.overrides] = Outcome(place.run_dir, config.cfg, record, result)
        return ended

    @property
    def has_pool(self) -> bool:
        """Whether the loss of a process means that jobs which wait for one are never begun."""
        return type(self.inner).__name__ == "JoblibLauncher"


def wait_for_others(error: BaseException) -> list[JobReturn | None]:
    """Wait for the jobs of submitit, whose launcher gives up at the first one that was lost.

    Returns:
        What each of them returned; empty for another launcher.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith("hydra_plugins.hydra_submitit_launcher"):
            return [_return_of(job) for job in frame.f_locals.get("jobs", [])]
    return []


def _return_of(job: Any) -> JobReturn | None:
    try:
        returned: JobReturn = job.results()[0]
        return returned
    except Exception:  # also lost
        return None


def _end(message: str) -> SystemExit:
    say_no_more()
    return SystemExit(sign(escape(message)))


def _known(plan: SweepPlan, job: PlannedJob, record: JobRecord) -> Outcome:
    """What came out of a job that is done."""
    run_dir = plan.run_dir(job)
    cfg, result = plan.config_of(job).cfg, read_result(run_dir)
    return Outcome(run_dir, cfg, record, result, was_known=True)


def _settle(
    run_dir: Path,
    returned: JobReturn | None,
    job: Overrides,
    choices: Mapping[str, str],
    seconds: float,
    problem: str,
) -> JobRecord:
    """Find out how a job ended, and record it where neither the run nor its launcher could.

    Args:
        run_dir: of the run.
        returned: by its launcher; None if that gave up.
        job: its overrides.
        choices: of each group.
        seconds: since the start.
        problem: why its launcher gave up.
    """
    status = JobStatus.UNKNOWN if returned is None else returned.status
    said = read_job(run_dir)
    if returned is not None and status == JobStatus.FAILED:
        known = said or own_record(job_key(job), choices, {})
        message = first_line(returned._return_value)
        return replace(known, status=Status.FAILED, exit_code=None, message=message)
    if status == JobStatus.COMPLETED:
        if said is not None and said.is_done:
            return said
        record = said or own_record(job_key(job), choices, {})
        return replace(record, status=Status.COMPLETED, exit_code=0)
    if said is not None and said.status == Status.RUNNING:  # and it is not held
        return replace(said, status=Status.KILLED)
    return complete_job(run_dir, job_key(job), choices, FAILED, seconds, message=problem)


def share_of_cpus(launcher: Mapping[str, Any], count: int) -> AbstractContextManager[None]:
    """Give the jobs that a launcher starts on this machine their shares of its CPUs.

    Ray does so itself, and on a cluster every job has CPUs of its own.

    Args:
        launcher: its configuration.
        count: of the jobs.
    """
    at_a_time = jobs_at_a_time(launcher, count)
    return nullcontext() if at_a_time is None else shared_cpus(at_a_time)


def jobs_at_a_time(launcher: Mapping[str, Any], count: int) -> int | None:
    """The jobs that a launcher runs at a time on this machine; None: it is not known, or not here.

    Args:
        launcher: its configuration.
        count: of the jobs.
    """
    name = str(launcher["_target_"]).rpartition(".")[2]
    if name == "LocalLauncher":
        return count
    if name != "JoblibLauncher":
        return None
    n_jobs = int(launcher["n_jobs"])
    if n_jobs < 0:  # as joblib has it: -1 for all CPUs
        n_jobs = max(1, usable_cpus() + 1 + n_jobs)
    return min(n_jobs, count)
