"""Runs each job of a sweep in its own process, so that no job affects another."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

import __main__
from lit_optim.config.check import to_plain
from lit_optim.config.composing import set_hydra_config
from lit_optim.config.finishing import finish_config
from lit_optim.config.origin import typed_lines
from lit_optim.config.paths import quote
from lit_optim.config.places import conf_dir_option
from lit_optim.environment import RANK_VARIABLES
from lit_optim.errors import escape
from lit_optim.interrupts import INTERRUPTED, interruptible, say_no_more
from lit_optim.runs.job import complete_job
from lit_optim.runs.layout import CHECKPOINTS, FINGERPRINT, JOB, LOCK, LOG
from lit_optim.runs.resume import read_fingerprint, run_fingerprint, write_fingerprint
from lit_optim.sweeps.names import job_key, name_jobs
from lit_optim.sweeps.progress import SweepProgress
from lit_optim.sweeps.records import existing_jobs, read_job, read_result, record_sweep
from lit_optim.system import OWN_GROUP, interrupt_group, kill_group, lock_file, signal_name
from lit_optim.threads import limit_threads

#: Where a sweep keeps runs whose configuration differs from that of the job of the same name.
BEFORE = ".before"
POLL_SECONDS = 0.1
SECONDS_TO_END = 45  # for a job to write its checkpoint after Ctrl-C


@dataclass
class Job:
    """A running process, its directory and its log."""

    overrides: list[str]
    run_dir: Path
    log: IO[str]
    process: subprocess.Popen[str]
    start: float
    choices: dict[str, str] = field(default_factory=dict)


class ProcessLauncher(Launcher):
    """Starts each job as a separate run, `n_jobs` at a time.

    A job gets the overrides with one value each, and a directory named after them, in which
    `log.txt` holds its output and `job.json` its exit code. `sweep.json` lists all jobs before the
    first one starts. A job that fails, crashes or is killed does not stop the others. In the
    directory of an interrupted sweep the launcher starts the jobs that are not done, each from its
    newest checkpoint if it has one.

    Args:
        n_jobs: the jobs that run at a time; they share the cores.
    """

    def __init__(self, n_jobs: Annotated[int, "> 0"] = 1) -> None:
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.config = config
        self.callbacks = hydra_context.callbacks
        self.compose = hydra_context.config_loader.load_sweep_config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; the return value of each is its exit code."""
        self.signals: list[int] = []
        signal.signal(signal.SIGTERM, self._note_signal)
        with interruptible(self._note_signal):
            return self._launch(job_overrides)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)  # checked only while no job is being started

    def _check_signals(self) -> None:
        if signal.SIGINT in self.signals:
            raise KeyboardInterrupt
        if self.signals:
            raise SystemExit(128 + self.signals[0])

    def _launch(self, job_overrides: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        sweep_dir = Path(self.config.hydra.sweep.dir).resolve()
        jobs = [list(overrides) for overrides in job_overrides]
        self.names = dict(
            zip(map(tuple, jobs), name_jobs(jobs, existing_jobs(sweep_dir)), strict=True)
        )
        self.jobs = [list(overrides) for overrides in self.names]  # without duplicates
        _record(self.config, sweep_dir, self.names)
        try:
            waiting = [job for job in self.jobs if not self._is_done(job, sweep_dir)]
        except KeyboardInterrupt:
            say_no_more()
            print("lit_optim: interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        running: list[Job] = []
        ended: list[JobReturn] = []
        console = Console(stderr=True)
        done_before = [job for job in self.jobs if job not in waiting]
        if done_before:
            console.print(f"{len(done_before)} of {len(self.jobs)} runs are done already")
        with SweepProgress(self.jobs, console) as progress:
            for job in done_before:
                progress.add_known(job, read_result(sweep_dir / self.names[tuple(job)]))
            try:
                while waiting or running:
                    self._check_signals()
                    while waiting and len(running) < self.n_jobs:
                        running.append(self._start(waiting.pop(0), sweep_dir))
                        self._check_signals()
                    for done in [job for job in running if job.process.poll() is not None]:
                        running.remove(done)
                        ended.append(_end(done))
                        self.callbacks.on_job_end(config=self.config, job_return=ended[-1])
                        code = done.process.returncode
                        result = read_result(done.run_dir) if code == 0 else None
                        status = describe_exit(code)
                        progress.add_ended(done.overrides, done.run_dir.name, status, result)
                    progress.set_running([job.overrides for job in running])
                    time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                progress.stop()
                _interrupt(running, self.signals)
                say_no_more()
                completed = sum(returned.return_value == 0 for returned in ended)
                message = f"lit_optim: interrupted with {completed} of {len(self.jobs)} runs done"
                message = escape(f"{message}: {sweep_dir}")
                console.print(message, soft_wrap=True, markup=False, highlight=False)
                raise SystemExit(INTERRUPTED) from None
            except OSError as error:  # the directory or the log of a job
                progress.stop()
                _interrupt(running, self.signals)
                message = f"lit_optim: {sweep_dir}: no run can be started there: {error.strerror}"
                console.print(escape(message), soft_wrap=True, markup=False, highlight=False)
                raise SystemExit(1) from None
            except BaseException:
                _interrupt(running, self.signals)
                raise
        return ended

    def _is_done(self, overrides: list[str], sweep_dir: Path) -> bool:
        """Whether an earlier start of the sweep completed this job with the same configuration."""
        self._check_signals()
        run_dir = sweep_dir / self.names[tuple(overrides)]
        record = read_job(run_dir)
        if record is None or not record.is_done:
            return False
        if sorted(job_key(record.overrides)) != sorted(job_key(overrides)):
            return False
        return bool(read_fingerprint(run_dir) == self._compose(overrides)[0])

    def _compose(self, overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the fingerprint of a job and its choices, from the current YAML files."""
        cfg = self.compose(self.config, overrides)
        try:
            finish_config(cfg, cfg.hydra)
            set_hydra_config(cfg)
            chosen = cfg.hydra.runtime.choices
            choices = {str(k): str(v) for k, v in chosen.items() if v and "hydra/" not in str(k)}
            return run_fingerprint(to_plain(cfg)), choices
        finally:
            HydraConfig.instance().set_config(self.config)

    def _start(self, overrides: list[str], sweep_dir: Path) -> Job:
        name = self.names[tuple(overrides)]
        run_dir, more = sweep_dir / name, []
        while _is_held(run_dir):  # a job that outlived its launcher
            self._check_signals()
            time.sleep(POLL_SECONDS)
        before = read_fingerprint(run_dir)
        if before and before != self._compose(overrides)[0]:  # the YAML files have changed
            run_dir.replace(unique_dir(sweep_dir / BEFORE, name))
        if any((run_dir / CHECKPOINTS).glob("*.ckpt")):  # interrupted in an earlier start
            more = [f"resume.from={quote(run_dir)}"]
        else:
            if (run_dir / LOG).exists():
                shutil.rmtree(run_dir)
            run_dir = unique_dir(sweep_dir, name)
        settings, choices = self._compose(overrides)
        for known in (LOG, FINGERPRINT, JOB):
            _make_room(run_dir / known)
        write_fingerprint(run_dir, settings)  # a run may fail before it writes its own
        command = [*own_command(), *job_key(overrides), f"hydra.run.dir={quote(run_dir)}", *more]
        environment = {k: v for k, v in os.environ.items() if not RANK_VARIABLES.fullmatch(k)}
        limit_threads(environment, self.n_jobs)
        log = (run_dir / LOG).open("a", encoding="utf-8")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
            env=environment,
            **OWN_GROUP,  # the launcher passes Ctrl-C to all ranks of a job, once
        )
        return Job(overrides, run_dir, log, process, time.perf_counter(), choices)


def _make_room(path: Path) -> None:
    """Remove or rename what is not a regular file where a file is to be written.

    Opening a FIFO would wait, a link leads elsewhere, and a folder cannot be replaced by a file.
    """
    if path.is_dir() and not path.is_symlink():
        path.rename(unique_dir(path.parent, f"{path.name}.before") / path.name)
    elif path.is_symlink() or not path.is_file():
        path.unlink(missing_ok=True)


def _is_held(run_dir: Path) -> bool:
    """Whether a run is active in a directory."""
    try:
        with (run_dir / LOCK).open("r+", encoding="utf-8") as file:
            return not lock_file(file)
    except OSError:
        return False


def own_command() -> list[str]:
    """Return the command line that starts this program."""
    spec = getattr(__main__, "__spec__", None)
    program = ["-m", spec.name] if spec else [os.path.abspath(sys.argv[0])]
    return [sys.executable, *program, *conf_dir_option()]


def directory_name(overrides: Sequence[str], jobs: Sequence[Sequence[str]]) -> str:
    """Return the name of the directory of one of these jobs."""
    return name_jobs(jobs)[[*map(list, jobs)].index(list(overrides))]


def unique_dir(parent: Path, name: str) -> Path:
    """Create a directory that does not exist yet."""
    for attempt in range(1, 10_000):
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise FileExistsError(parent / name)


def describe_exit(code: int) -> str:
    """Describe how a process ended."""
    if code == 0:
        return "done"
    return f"killed by {signal_name(-code)}" if code < 0 else f"failed with code {code}"


def _record(config: DictConfig, sweep_dir: Path, names: dict[tuple[str, ...], str]) -> None:
    """List the jobs in the sweep's directory, so that an interrupted sweep can be resumed."""
    try:
        record_sweep(sweep_dir, typed_lines(config.hydra), names)
    except OSError as error:
        message = f"{sweep_dir}: no run can be started there: {error.strerror}"
        raise SystemExit(f"lit_optim: {message}") from None


def _end(job: Job) -> JobReturn:
    job.log.close()
    code, seconds = job.process.returncode, time.perf_counter() - job.start
    with contextlib.suppress(OSError):  # a full disk: the job will run again
        complete_job(job.run_dir, job.overrides, job.choices, code, seconds, job.process.pid)
    returned = JobReturn(overrides=job.overrides, working_dir=str(job.run_dir))
    returned.status = JobStatus.COMPLETED  # a failed job does not end the sweep; the table names it
    returned.return_value = job.process.returncode
    return returned


def _interrupt(running: list[Job], signals: Sequence[int]) -> None:
    """Pass Ctrl-C to the jobs, which write their checkpoints; a second one kills them."""
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
            job.process.wait()
        _end(job)
