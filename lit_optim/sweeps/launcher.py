"""Runs each job of a sweep in its own process, so that no job affects another."""

from __future__ import annotations

import atexit
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from lit_optim.errors import escape
from lit_optim.interrupts import INTERRUPTED, interruptible, say_no_more
from lit_optim.results.reading import read_result
from lit_optim.runs.locks import read_holder
from lit_optim.sweeps.forked_jobs import JobServer
from lit_optim.sweeps.jobs import Job, interrupt_jobs, record_end, start_job
from lit_optim.sweeps.plan import SweepPlan
from lit_optim.sweeps.progress import SweepProgress
from lit_optim.sweeps.returns import Outcome, is_basic_sweeper, make_returns
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
        self.starter = JobStarter(self.n_jobs, server, self._check_signals)
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
        self.signals: list[int] = []
        self.console = Console(stderr=True)
        signal.signal(signal.SIGTERM, self._note_signal)
        with interruptible(self._note_signal):
            self.plan = SweepPlan(self.config, self.compose, job_overrides, initial_job_idx)
            self.progress = SweepProgress(self.plan.jobs, self.console)
            self.running: list[Job] = []
            self.awaited: set[Path] = set()
            self.outcomes: dict[tuple[str, ...], Outcome] = {}
            self._run_all()
        is_grid, earlier = is_basic_sweeper(self.config), self.results
        self.results = [*earlier, *(outcome.result for outcome in self.outcomes.values())]
        return make_returns(job_overrides, self.outcomes, is_grid, earlier)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)  # checked only while no job is being started

    def _check_signals(self) -> None:
        if signal.SIGINT in self.signals:
            raise KeyboardInterrupt
        if self.signals:
            raise SystemExit(128 + self.signals[0])

    def _run_all(self) -> None:
        try:
            self.plan.record()
            waiting = deque(job for job in self.plan.jobs if not self._note_done(job))
            if self.outcomes:
                counts = f"{len(self.outcomes)} of {len(self.plan.jobs)}"
                self.console.print(f"{counts} runs are done already")
            with self.progress:
                self._run_waiting(waiting)
        except KeyboardInterrupt:
            self._interrupt_jobs()
            ended = [known for known in self.outcomes.values() if not known.was_known]
            done = sum(known.is_done for known in ended)
            counts = f"{done} of {len(self.plan.jobs)}"
            self._end(f"interrupted with {counts} runs done: {self.plan.sweep_dir}", INTERRUPTED)
        except OSError as error:  # the directory or the log of a job
            self._interrupt_jobs()
            where = f"{self.plan.sweep_dir}: no run can be started there"
            self._end(f"{where}: {error.strerror}", 1)
        except BaseException:
            self._interrupt_jobs()
            raise

    def _run_waiting(self, waiting: deque[list[str]]) -> None:
        while waiting or self.running:
            self._check_signals()
            self._start(waiting)
            for job in [*self.running]:
                code = job.process.poll()
                if code is not None:
                    self.running.remove(job)
                    self._note_end(job, code)
            self._show_running()
            self.starter.wait()

    def _show_running(self) -> None:
        self.progress.set_running([job.overrides for job in self.running])

    def _start(self, waiting: deque[list[str]]) -> None:
        """Start as many jobs as may run; one whose directory is in use waits."""
        for _ in range(len(waiting)):
            if len(self.running) == self.n_jobs:
                return
            job = waiting.popleft()
            started = start_job(self.plan, self.starter, job)
            if started is not None:
                self.running.append(started)
                self._show_running()
            elif not self._note_done(job):
                waiting.append(job)
                self._tell_waiting(job)
            self._check_signals()

    def _tell_waiting(self, job: list[str]) -> None:
        """Tell, once, that a process of an earlier start still runs in the directory of a job."""
        run_dir = self.plan.run_dir(job)
        if run_dir not in self.awaited:
            self.awaited.add(run_dir)
            who = read_holder(run_dir) or "a process"
            message = escape(f"waiting for {who}, which still runs in {run_dir}")
            self.console.print(message, soft_wrap=True, markup=False, highlight=False)

    def _note_done(self, job: list[str]) -> bool:
        """Note a job that an earlier start of the sweep has done, if it has."""
        self._check_signals()
        record = self.plan.find_done(job)
        if record is None:
            return False
        run_dir = self.plan.run_dir(job)
        result, cfg = read_result(run_dir), self.plan.config_of(job).cfg
        self.outcomes[tuple(job)] = Outcome(run_dir, cfg, record, result, was_known=True)
        self.progress.add_known(job, result)
        return True

    def _note_end(self, job: Job, code: int) -> None:
        record = record_end(job, code)
        result = read_result(job.run_dir) if record.is_done else None
        cfg = self.plan.config_of(job.overrides).cfg
        self.outcomes[tuple(job.overrides)] = Outcome(job.run_dir, cfg, record, result)
        self.progress.add_ended(job.overrides, job.run_dir.name, record, result)

    def _interrupt_jobs(self) -> None:
        self.progress.stop()
        interrupt_jobs(self.running, self.signals)
        self.starter.close()

    def _end(self, message: str, code: int) -> NoReturn:
        say_no_more()
        line = escape(f"lit_optim: {message}")
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)
        raise SystemExit(code) from None
