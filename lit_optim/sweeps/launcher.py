"""A process of its own for each job of a multirun: nothing leaks, and nobody takes others down."""

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
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

import __main__
from lit_optim.config.check import to_plain
from lit_optim.config.composing import set_hydra_config
from lit_optim.config.length import resolve_length
from lit_optim.config.lr import resolve_lr
from lit_optim.config.old_keys import rename_old_keys
from lit_optim.config.origin import typed_lines
from lit_optim.config.paths import quote
from lit_optim.config.places import conf_dir_option
from lit_optim.environment import RANK_VARIABLES
from lit_optim.errors import escape
from lit_optim.interrupts import INTERRUPTED, interruptible, say_no_more
from lit_optim.runs.layout import CHECKPOINTS, FINGERPRINT, JOB, LOCK, LOG
from lit_optim.runs.resume import read_fingerprint, run_fingerprint, write_fingerprint
from lit_optim.sweeps.names import job_key, name_jobs
from lit_optim.sweeps.progress import SweepProgress
from lit_optim.sweeps.records import existing_jobs, read_job, read_result, record_sweep, write_json
from lit_optim.system import OWN_GROUP, interrupt_group, kill_group, lock_file, signal_name
from lit_optim.threads import limit_threads

#: In a sweep's: runs that were configured otherwise than those of the same name are now.
BEFORE = ".before"
POLL_SECONDS = 0.1
SECONDS_TO_END = 45  # that a job has for its checkpoint after Ctrl-C


@dataclass
class Job:
    """A process that runs, its directory and its log."""

    overrides: list[str]
    run_dir: Path
    log: IO[str]
    process: subprocess.Popen[str]
    start: float
    choices: dict[str, str] = field(default_factory=dict)


class ProcessLauncher(Launcher):
    """Starts each job as a run of its own, `n_jobs` at a time.

    A job gets the overrides with one value each, and a directory named after them, where
    `log.txt` has what it printed and `job.json` how it ended; `sweep.json` lists all jobs before
    the first one starts. A job that fails, crashes or is killed stops no other. In the directory of
    a sweep that was cut off it starts what is not done: from the newest checkpoint where there is
    one.

    Args:
        n_jobs: how many run at a time; they share the cores.
    """

    def __init__(self, n_jobs: int = 1) -> None:
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
        """Run the jobs; each one's exit code is its return value."""
        self.signals: list[int] = []
        signal.signal(signal.SIGTERM, self._note_signal)
        with interruptible(self._note_signal):
            return self._launch(job_overrides)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)  # looked at where no job is just being started

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
        self.jobs = [list(overrides) for overrides in self.names]  # each once
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
        there = [job for job in self.jobs if job not in waiting]
        if there:
            console.print(f"{len(there)} of {len(self.jobs)} runs are done already")
        with SweepProgress(self.jobs, console) as progress:
            for job in there:
                progress.add_known(job, read_result(sweep_dir / self.names[tuple(job)]))
            try:
                while waiting or running:
                    self._check_signals()
                    while waiting and len(running) < self.n_jobs:
                        running.append(self._start(waiting.pop(0), sweep_dir))
                        self._check_signals()
                    for one in [one for one in running if one.process.poll() is not None]:
                        running.remove(one)
                        ended.append(_end(one))
                        self.callbacks.on_job_end(config=self.config, job_return=ended[-1])
                        code = one.process.returncode
                        result = read_result(one.run_dir) if code == 0 else None
                        how = describe_exit(code)
                        progress.add_ended(one.overrides, one.run_dir.name, how, result)
                    progress.set_running([one.overrides for one in running])
                    time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                progress.stop()
                _interrupt(running, self.signals)
                say_no_more()
                done = sum(job.return_value == 0 for job in ended)
                told = f"lit_optim: interrupted with {done} of {len(self.jobs)} runs done"
                told = escape(f"{told}: {sweep_dir}")
                console.print(told, soft_wrap=True, markup=False, highlight=False)
                raise SystemExit(INTERRUPTED) from None
            except OSError as error:  # what a job is started with: its directory, its log
                progress.stop()
                _interrupt(running, self.signals)
                told = f"lit_optim: {sweep_dir}: no run can be started there: {error.strerror}"
                console.print(escape(told), soft_wrap=True, markup=False, highlight=False)
                raise SystemExit(1) from None
            except BaseException:
                _interrupt(running, self.signals)
                raise
        return ended

    def _is_done(self, overrides: list[str], sweep_dir: Path) -> bool:
        """Whether an earlier start has ended this job well, configured as it is now."""
        self._check_signals()
        run_dir = sweep_dir / self.names[tuple(overrides)]
        record = read_job(run_dir)
        if record is None or record.exit_code != 0:
            return False
        if sorted(job_key(record.overrides)) != sorted(job_key(overrides)):
            return False
        return bool(read_fingerprint(run_dir) == self._compose(overrides)[0])

    def _compose(self, overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """All values of a job and its choices, by the YAML files as they are now."""
        cfg = self.compose(self.config, overrides)
        try:
            rename_old_keys(cfg)
            resolve_length(cfg, cfg.hydra)
            resolve_lr(cfg, cfg.hydra)
            set_hydra_config(cfg)
            chosen = cfg.hydra.runtime.choices
            choices = {str(k): str(v) for k, v in chosen.items() if v and "hydra/" not in str(k)}
            return run_fingerprint(to_plain(cfg)), choices
        finally:
            HydraConfig.instance().set_config(self.config)

    def _start(self, overrides: list[str], sweep_dir: Path) -> Job:
        name = self.names[tuple(overrides)]
        run_dir, more = sweep_dir / name, []
        while _is_held(run_dir):  # a job of a launcher that was killed is still at it
            self._check_signals()
            time.sleep(POLL_SECONDS)
        before = read_fingerprint(run_dir)
        if before and before != self._compose(overrides)[0]:  # the YAML files have changed
            run_dir.replace(unique_dir(sweep_dir / BEFORE, name))
        if any((run_dir / CHECKPOINTS).glob("*.ckpt")):  # of an earlier start, which was cut off
            more = [f"resume.from={quote(run_dir)}"]
        else:
            if (run_dir / LOG).exists():
                shutil.rmtree(run_dir)
            run_dir = unique_dir(sweep_dir, name)
        settings, choices = self._compose(overrides)
        for known in (LOG, FINGERPRINT, JOB):
            _make_room(run_dir / known)
        write_fingerprint(run_dir, settings)  # also of a run that fails before it can say so itself
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
            **OWN_GROUP,  # Ctrl-C comes from here, once, to all ranks of the job
        )
        return Job(overrides, run_dir, log, process, time.perf_counter(), choices)


def _make_room(path: Path) -> None:
    """Put out of the way what stands where a file is to be written and is none.

    A FIFO would be waited for, a link leads elsewhere, a folder cannot be replaced by a file.
    """
    if path.is_dir() and not path.is_symlink():
        path.rename(unique_dir(path.parent, f"{path.name}.before") / path.name)
    elif path.is_symlink() or not path.is_file():
        path.unlink(missing_ok=True)


def _is_held(run_dir: Path) -> bool:
    """Whether a run is going on in a directory."""
    try:
        with (run_dir / LOCK).open("r+", encoding="utf-8") as file:
            return not lock_file(file)
    except OSError:
        return False


def own_command() -> list[str]:
    """This program again."""
    spec = getattr(__main__, "__spec__", None)
    program = ["-m", spec.name] if spec else [os.path.abspath(sys.argv[0])]
    return [sys.executable, *program, *conf_dir_option()]


def directory_name(overrides: Sequence[str], jobs: Sequence[Sequence[str]]) -> str:
    """The name of the directory of one of these jobs."""
    return name_jobs(jobs)[[*map(list, jobs)].index(list(overrides))]


def unique_dir(parent: Path, name: str) -> Path:
    """Make a directory that nobody else has."""
    for attempt in range(1, 10_000):
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise FileExistsError(parent / name)


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code == 0:
        return "done"
    return f"killed by {signal_name(-code)}" if code < 0 else f"failed with code {code}"


def _record(config: DictConfig, sweep_dir: Path, names: dict[tuple[str, ...], str]) -> None:
    """List the jobs in the sweep's directory, so that a sweep killed early can go on."""
    try:
        record_sweep(sweep_dir, typed_lines(config.hydra), names)
    except OSError as error:
        told = f"{sweep_dir}: no run can be started there: {error.strerror}"
        raise SystemExit(f"lit_optim: {told}") from None


def _end(job: Job) -> JobReturn:
    job.log.close()
    record: dict[str, Any] = {
        "overrides": job.overrides,
        "exit_code": job.process.returncode,
        "seconds": time.perf_counter() - job.start,
        "choices": job.choices,
    }
    with contextlib.suppress(OSError):  # a full disk: it will be run again
        write_json(job.run_dir / JOB, record)
    returned = JobReturn(overrides=job.overrides, working_dir=str(job.run_dir))
    returned.status = JobStatus.COMPLETED  # one bad job ends nothing; the table says which failed
    returned.return_value = job.process.returncode
    return returned


def _interrupt(running: list[Job], signals: Sequence[int]) -> None:
    """Pass Ctrl-C on to the jobs and let them write their checkpoints; a second one kills them."""
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
