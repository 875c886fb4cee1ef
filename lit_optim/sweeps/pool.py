"""Runs the jobs of a source on this machine, so many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol

from lit_optim.errors import escape
from lit_optim.interrupts import INTERRUPTED, say_no_more
from lit_optim.printing import Console
from lit_optim.results.reading import read_result
from lit_optim.runs.job import JobRecord
from lit_optim.runs.locks import Held, read_holder
from lit_optim.streams import sign
from lit_optim.sweeps.jobs import Job, interrupt_jobs, record_end, start_job
from lit_optim.sweeps.plan import Done, JobPlan, PlannedJob
from lit_optim.sweeps.returns import Outcome
from lit_optim.sweeps.signals import Signals, Terminated
from lit_optim.sweeps.source import JobSource
from lit_optim.sweeps.starters import JobStarter


class Progress(Protocol):
    """Shows how far a sweep is, within its context."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def stop(self) -> None:
        """Show no more."""

    def set_running(self, running: Sequence[PlannedJob]) -> None:
        """Called now and then with the jobs that run."""

    def add_known(self, job: PlannedJob, result: Mapping[str, Any] | None) -> None:
        """Called for a job that was found done."""

    def add_ended(
        self, job: PlannedJob, name: str, record: JobRecord, result: Mapping[str, Any] | None
    ) -> None:
        """Called for a job that has ended, with the name of its directory."""


class NoProgress:
    """Progress that is not shown."""

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing."""

    __enter__ = __exit__ = stop = set_running = add_known = add_ended = _ignore


class JobPool:
    """Runs the jobs of a source, each in a process of its own.

    Args:
        plan: knows the configurations and directories of the jobs.
        starter: of the processes; closed where a signal or a mistake ends the pool.
        source: of the jobs.
        n_jobs: how many run at a time; those that outlived an earlier pool count.
        progress: shows how far it is.
        signals: that are noted.
        console: for messages.
    """

    def __init__(
        self,
        plan: JobPlan,
        starter: JobStarter,
        source: JobSource,
        n_jobs: int,
        progress: Progress,
        signals: Signals,
        console: Console,
    ) -> None:
        self.plan, self.starter, self.source, self.n_jobs = plan, starter, source, n_jobs
        self.progress, self.signals, self.console = progress, signals, console
        self._running: list[Job] = []
        self._awaited: set[Path] = set()

    def run(self) -> None:
        """Run the jobs until the source has no more.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the jobs have ended, with their checkpoints.
            Terminated: after SIGTERM, in the same way.
            OSError: no run can be started in the directory of a job; the others are interrupted.
        """
        try:
            with self.progress:
                while self._running or not self.source.is_exhausted:
                    self.signals.check()
                    self._look_after_running()
                    self._start()
                    self._show_running()
                    if self._running or not self.source.is_exhausted:
                        self.starter.wait()
        except BaseException:
            self.progress.stop()
            interrupt_jobs(self._running, self.signals.numbers)
            self.starter.close()
            raise

    def _show_running(self) -> None:
        self.progress.set_running([job.planned for job in self._running])

    def _look_after_running(self) -> None:
        for job in [*self._running]:
            code = job.process.poll()
            if code is None:
                self.source.watch(job.planned, job.run_dir)
            else:
                self._running.remove(job)
                self._note_end(job, code)

    def _start(self) -> None:
        """Start as many jobs as may run; one whose directory is in use is put back."""
        held: list[PlannedJob] = []
        while len(self._running) + len(held) < self.n_jobs:
            job = self.source.take()
            if job is None:
                break
            if not self.note_done(job) and not self._start_one(job):
                held.append(job)
            self.signals.check()
        for job in held:
            self.source.put_back(job)

    def _start_one(self, job: PlannedJob) -> bool:
        """Start a job, or note that it was done meanwhile; else another process still runs it."""
        try:
            self._running.append(start_job(self.plan, self.starter, job))
        except Done:
            return self.note_done(job)
        except Held:
            self._tell_waiting(job)
            return False
        self._show_running()
        return True

    def _tell_waiting(self, job: PlannedJob) -> None:
        """Tell, once, that a process of an earlier start still runs in the directory of a job."""
        run_dir = self.plan.run_dir(job)
        if run_dir not in self._awaited:
            self._awaited.add(run_dir)
            who = read_holder(run_dir) or "a process"
            message = escape(f"waiting for {who}, which still runs in {run_dir}")
            self.console.print(message, soft_wrap=True, markup=False, highlight=False)

    def note_done(self, job: PlannedJob) -> bool:
        """Note a job that an earlier start of the sweep has done, if it has."""
        self.signals.check()
        record = self.plan.find_done(job)
        if record is None:
            return False
        run_dir = self.plan.run_dir(job)
        result, cfg = read_result(run_dir), self.plan.config_of(job).cfg
        self.source.end(job, Outcome(run_dir, cfg, record, result, was_known=True))
        self.progress.add_known(job, result)
        return True

    def _note_end(self, job: Job, code: int) -> None:
        record = record_end(job, code)
        result = read_result(job.run_dir) if record.is_done else None
        cfg = self.plan.config_of(job.planned).cfg
        self.source.end(job.planned, Outcome(job.run_dir, cfg, record, result))
        self.progress.add_ended(job.planned, job.run_dir.name, record, result)


@contextmanager
def ending_in_a_line(console: Console, sweep_dir: Path, count: Callable[[], str]) -> Iterator[None]:
    """Turn a signal, and a directory in which no run can be started, into a line and an exit code.

    Args:
        console: for the line.
        sweep_dir: where the sweep is.
        count: tells how much is done, such as `3 of 12 runs`.

    Raises:
        SystemExit: with the code.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        code = error.code if isinstance(error, Terminated) else INTERRUPTED
        end_with_line(console, f"interrupted with {count()} done: {sweep_dir}", code)
    except OSError as error:  # the directory or the log of a job
        end_with_line(console, f"{sweep_dir}: no run can be started there: {error.strerror}", 1)


def end_with_line(console: Console, message: str, code: Any) -> NoReturn:
    """Print a line, which may be one of another process of ours, and end with a code.

    Raises:
        SystemExit: with the code.
    """
    say_no_more()
    line = escape(sign(message.removeprefix(sign(""))))
    console.print(line, soft_wrap=True, markup=False, highlight=False)
    raise SystemExit(code) from None
