"""Runs a sweep by a launcher that is not ours: Hydra's basic one, joblib, submitit, Ray.

Such a launcher only starts the jobs. Their names, directories, what is done already and what can go
on from a checkpoint are decided here, in the process of the sweep, as for our own launcher; so a
sweep looks the same whoever runs it, and may be resumed by another launcher.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from rich.console import Console

from lit_optim.config.paths import quote
from lit_optim.errors import UsageError, first_line
from lit_optim.interrupts import interruptible
from lit_optim.results.reading import read_result
from lit_optim.runs.job import complete_job, read_job
from lit_optim.runs.locks import Held, is_held
from lit_optim.runs.status import Status
from lit_optim.sweeps.names import job_key
from lit_optim.sweeps.plan import SweepPlan
from lit_optim.sweeps.returns import Outcome, is_basic_sweeper, make_returns
from lit_optim.system import usable_cpus
from lit_optim.threads import limit_threads

POLL_SECONDS = 0.5
DONE = "done"
#: The exit codes that are recorded for a run that cannot tell how it ended.
FAILED, KILLED = 1, -9


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

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs.

        Returns:
            One for each of them, in their order, as `ProcessLauncher` does.

        Raises:
            UsageError: no run can be started in the directory of the sweep.
        """
        plan = SweepPlan(self.config, self.compose, job_overrides, initial_job_idx)
        outcomes: dict[tuple[str, ...], Outcome] = {}
        try:
            plan.record()
            waiting = self._launch_some(plan, plan.jobs, outcomes, initial_job_idx)
            while waiting:  # for jobs that outlived their launcher
                time.sleep(POLL_SECONDS)
                waiting = self._launch_some(plan, waiting, outcomes, initial_job_idx)
        except OSError as error:
            raise UsageError(
                f"{plan.sweep_dir}: no run can be started there: {error.strerror}"
            ) from None
        return make_returns(job_overrides, outcomes, is_quiet=is_basic_sweeper(self.config))

    def _launch_some(
        self,
        plan: SweepPlan,
        waiting: Sequence[list[str]],
        outcomes: dict[tuple[str, ...], Outcome],
        first: int,
    ) -> list[list[str]]:
        """Run the jobs whose directories are free; return the others."""
        places: dict[tuple[str, ...], tuple[Path, list[str]]] = {}
        held = []
        for job in waiting:
            if plan.is_done(job):
                outcomes[tuple(job)] = _known(plan, job)
                continue
            try:
                place = plan.prepare(job)
            except Held:  # one that outlived its launcher
                held.append(job)
                continue
            place.lock.close()  # the run takes it in its own process
            places[tuple(job)] = place.run_dir, place.overrides
        if outcomes and len(waiting) == len(plan.jobs):
            self.console.print(f"{len(outcomes)} of {len(plan.jobs)} runs are done already")
        if places:
            outcomes.update(self._launch_prepared(plan, places, first))
        return held

    def _launch_prepared(
        self,
        plan: SweepPlan,
        places: Mapping[tuple[str, ...], tuple[Path, list[str]]],
        first: int,
    ) -> dict[tuple[str, ...], Outcome]:
        lines = [
            [*job_key(job), f"hydra.sweep.subdir={quote(Path(run_dir.name))}", *more]
            for job, (run_dir, more) in places.items()
        ]
        start = time.perf_counter()
        problem = ""
        returned: Sequence[JobReturn | None] = [None] * len(places)
        with _share_of_cpus(self.config, len(places)), interruptible():
            try:
                returned = self.inner.launch(lines, first)
            except Exception as error:  # a process was lost, and with it what others returned
                problem = first_line(error)
                self._wait([run_dir for run_dir, _ in places.values()])
        ended = {}
        for (job, (run_dir, _)), one in zip(places.items(), returned, strict=True):
            config, seconds = plan.config_of(job), time.perf_counter() - start
            how = _describe(one) or _settle(run_dir, job, config.choices, seconds, problem)
            is_done = how == DONE
            result = read_result(run_dir) if is_done else None
            ended[job] = Outcome(run_dir, config.cfg, how, is_done, result)
        return ended

    def _wait(self, run_dirs: Sequence[Path]) -> None:
        """Wait for the jobs that still run after their launcher has given up."""
        while any(map(is_held, run_dirs)):
            time.sleep(POLL_SECONDS)


def _known(plan: SweepPlan, job: list[str]) -> Outcome:
    """What came out of a job that is done."""
    run_dir = plan.run_dir(job)
    cfg, result = plan.config_of(job).cfg, read_result(run_dir)
    return Outcome(run_dir, cfg, DONE, is_done=True, result=result, was_known=True)


def _describe(returned: JobReturn | None) -> str:
    """How a job ended in words; empty if its launcher does not know."""
    if returned is None or returned.status == JobStatus.UNKNOWN:
        return ""
    if returned.status == JobStatus.COMPLETED:
        return DONE
    return first_line(returned._return_value)


def _settle(
    run_dir: Path, job: Sequence[str], choices: Mapping[str, str], seconds: float, problem: str
) -> str:
    """Find out how a job ended whose launcher gave up, and record it where the run could not."""
    said = read_job(run_dir)
    was_killed = said is not None and said.status == Status.RUNNING
    code = KILLED if was_killed else FAILED
    record = complete_job(run_dir, job_key(job), choices, code, seconds, message=problem)
    return DONE if record.is_done else record.message or record.status.value


@contextlib.contextmanager
def _share_of_cpus(config: DictConfig, count: int) -> Iterator[None]:
    """Give the jobs that a launcher starts on this machine their shares of its CPUs.

    Ray does so itself, and on a cluster every job has CPUs of its own.
    """
    at_a_time = jobs_at_a_time(config.hydra.launcher, count)
    before = dict(os.environ)
    if at_a_time is not None:
        shared = dict(before)
        limit_threads(shared, at_a_time)
        os.environ.update(shared)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


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
