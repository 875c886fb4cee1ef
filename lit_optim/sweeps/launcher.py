"""Runs each job of a sweep in its own process, so that no job affects another."""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lit_optim.errors import how_many
from lit_optim.printing import Console
from lit_optim.programs import format_path
from lit_optim.sweeps.forked_jobs import JobServer
from lit_optim.sweeps.plan import SweepPlan
from lit_optim.sweeps.pool import JobPool, ending_in_a_line
from lit_optim.sweeps.progress import SweepProgress
from lit_optim.sweeps.returns import Outcome, is_basic_sweeper, make_returns
from lit_optim.sweeps.signals import Signals
from lit_optim.sweeps.source import JobList
from lit_optim.sweeps.starters import JobStarter
from lit_optim.system import can_fork


class ProcessLauncher(Launcher):
    """Starts each job as a separate run, `n_jobs` at a time.

    A job gets the overrides with one value each, and a directory named after them, in which
    `log.txt` holds its output and `job.json` says how it ended. `sweep.json` lists all jobs before
    the first one starts. A job that fails, crashes or is killed does not stop the others. In the
    directory of an interrupted sweep the launcher starts the jobs that are not done, each from its
    newest checkpoint if it has one.

    On Linux a job on the CPU is a fork of a process that has imported everything; other jobs are
    new processes.

    Args:
        n_jobs: the jobs that run at a time; they share the cores.
        fresh: make every job a new process.
    """

    def __init__(self, n_jobs: Annotated[int, "> 0"] = 1, fresh: bool = False) -> None:
        self.n_jobs, self.fresh = n_jobs, fresh

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.config = config
        self.compose = hydra_context.config_loader.load_sweep_config
        server = None if self.fresh or not can_fork() else JobServer
        self.signals = Signals()
        self.starter = JobStarter(self.n_jobs, server, self.signals.check)
        self.results: list[Mapping[str, Any] | None] = []  # of all batches of jobs
        atexit.register(self.starter.close)  # a sweeper may launch several times

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs.

        Returns:
            One for each of them, in their order: the value of its monitored metric, of a job that
            diverged the worst that is known; or why it failed.
        """
        with self.signals.noting():
            plan = SweepPlan(self.config, self.compose, job_overrides, initial_job_idx)
            outcomes = self._run_all(plan)
        is_grid, earlier = is_basic_sweeper(self.config), self.results
        self.results = [*earlier, *(outcome.result for outcome in outcomes.values())]
        return make_returns(job_overrides, outcomes, is_grid, earlier)

    def _run_all(self, plan: SweepPlan) -> dict[tuple[str, ...], Outcome]:
        console = Console(stderr=True)
        source, progress = JobList(plan.jobs), SweepProgress(plan.jobs, console)
        pool = JobPool(plan, self.starter, source, self.n_jobs, progress, self.signals, console)
        try:
            with ending_in_a_line(console, plan.sweep_dir, lambda: _count_done(source, plan)):
                plan.record()
                source.leave_out(pool.note_done)
                if source.outcomes:
                    runs = how_many(len(plan.jobs), "run")
                    console.print(f"{len(source.outcomes)} of {runs} already done")
                else:
                    count = len(plan.jobs)
                    runs = f"{how_many(count, 'run')}, {min(self.n_jobs, count)} at a time"
                    line = f"{runs}: {format_path(plan.sweep_dir)}"
                    console.print(line, soft_wrap=True, markup=False, highlight=False)
                pool.run()
        except BaseException:
            self.starter.close()
            raise
        return source.outcomes


def _count_done(source: JobList, plan: SweepPlan) -> str:
    ended = [known for known in source.outcomes.values() if not known.was_known]
    return f"{sum(known.is_done for known in ended)} of {how_many(len(plan.jobs), 'run')}"
