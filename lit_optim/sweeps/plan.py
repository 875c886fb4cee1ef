"""What the jobs of a sweep are: their names, configurations and directories, for any launcher."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from lit_optim.config.check import to_plain
from lit_optim.config.composing import set_hydra_config
from lit_optim.config.finishing import finish_config
from lit_optim.config.origin import typed_lines
from lit_optim.config.paths import quote
from lit_optim.config.sweep_settings import run_choices
from lit_optim.runs.job import JobRecord, read_job
from lit_optim.runs.layout import CHECKPOINTS, FINGERPRINT, JOB, LOCK, LOG, STOP
from lit_optim.runs.locks import take_lock
from lit_optim.runs.resume import read_fingerprint, run_fingerprint
from lit_optim.sweeps.names import job_key, name_jobs
from lit_optim.sweeps.records import existing_jobs, record_sweep, write_json
from lit_optim.system import move_directory

#: Where a sweep keeps runs whose configuration differs from that of the job of the same name.
BEFORE = ".before"


@dataclass(frozen=True)
class JobConfig:
    """A job's configuration, composed from the current YAML files.

    Args:
        cfg: the whole, with Hydra's part.
        fingerprint: what makes the run this run.
        choices: the name of the choice of each group.
    """

    cfg: DictConfig
    fingerprint: dict[str, Any]
    choices: dict[str, str]


@dataclass(frozen=True)
class Place:
    """The directory of a job that is about to start.

    Args:
        run_dir: of the run.
        lock: of it, taken; the run takes it over, or takes it anew once this is closed.
        overrides: that lead the run there: to its newest checkpoint, if it has one.
    """

    run_dir: Path
    lock: IO[bytes]
    overrides: list[str]


@dataclass(frozen=True)
class PlannedJob:
    """A job that is to be run.

    Args:
        overrides: with one value for each key.
        place: its directory, in that of the sweep.
    """

    overrides: tuple[str, ...]
    place: str


class Done(Exception):
    """Another process has done a job meanwhile."""


class JobPlan:
    """Jobs of a sweep: their configurations and directories.

    Args:
        config: of the sweep, with Hydra's part.
        compose: Hydra's function that composes the configuration of a job.
        first: the number of the first job.
    """

    def __init__(
        self,
        config: DictConfig,
        compose: Callable[[DictConfig, list[str]], DictConfig],
        first: int = 0,
    ) -> None:
        self.config, self._compose, self._next = config, compose, first
        self.sweep_dir = Path(config.hydra.sweep.dir).resolve()
        self._numbers: dict[PlannedJob, int] = {}
        self._configs: dict[tuple[str, ...], JobConfig] = {}

    def add(self, overrides: Sequence[str], place: str) -> PlannedJob:
        """Add a job; jobs of the same overrides in different places are different.

        Args:
            overrides: with one value for each key.
            place: the directory, in that of the sweep.
        """
        job = PlannedJob(tuple(overrides), place)
        if job not in self._numbers:
            self._numbers[job] = self._next
            self._next += 1
        return job

    def run_dir(self, job: PlannedJob) -> Path:
        """Where a job runs, unless something else is there."""
        return self.sweep_dir / job.place

    def config_of(self, job: PlannedJob) -> JobConfig:
        """The configuration of a job, composed once."""
        if job.overrides not in self._configs:
            self._configs[job.overrides] = self._compose_job(job)
        return self._configs[job.overrides]

    def forget_config(self, job: PlannedJob) -> None:
        """Free the memory of a configuration that is not needed for the moment."""
        self._configs.pop(job.overrides, None)

    def _compose_job(self, job: PlannedJob) -> JobConfig:
        cfg = self._compose(self.config, list(job.overrides))
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = self._numbers[job]
        try:
            finish_config(cfg, cfg.hydra, self.run_dir(job))
            set_hydra_config(cfg)
            choices = run_choices(cfg.hydra.runtime.choices)
            return JobConfig(cfg, run_fingerprint(to_plain(cfg)), choices)
        finally:
            HydraConfig.instance().set_config(self.config)

    def find_done(self, job: PlannedJob) -> JobRecord | None:
        """The record of this job if an earlier start of the sweep has done it as configured now."""
        run_dir = self.run_dir(job)
        record = read_job(run_dir)
        if record is None or not record.is_done:
            return None
        if sorted(job_key(record.overrides)) != sorted(job_key(job.overrides)):
            return None
        is_same = read_fingerprint(run_dir) == self.config_of(job).fingerprint
        return record if is_same else None

    def prepare(self, job: PlannedJob) -> Place:
        """Lock the directory of a job, empty unless the run can go on from a checkpoint in it.

        An earlier run there with another configuration is moved to `.before`.

        Raises:
            Held: a process runs there, such as one that outlived its launcher.
            Done: another process has done the job since it was last looked at.
            OSError: nothing can be written there.
        """
        fingerprint = self.config_of(job).fingerprint
        run_dir, lock = _lock_directory(self.run_dir(job))
        try:
            if self.find_done(job) is not None:
                raise Done
            run_dir, lock = _clear_directory(run_dir, lock, fingerprint)
            is_resumed = any((run_dir / CHECKPOINTS).glob("*.ckpt"))
            for known in (LOG, FINGERPRINT, JOB):
                make_room(run_dir / known)
            if (run_dir / STOP).is_symlink() or (run_dir / STOP).exists():
                _remove(run_dir / STOP)  # of a trial that goes on
            write_json(run_dir / FINGERPRINT, fingerprint)  # a run may fail before it does so
        except BaseException:
            lock.close()
            raise
        return Place(run_dir, lock, [f"resume.from={quote(run_dir)}"] if is_resumed else [])


class SweepPlan(JobPlan):
    """The jobs of a sweep that are all known before the first one starts.

    Args:
        config: of the sweep, with Hydra's part.
        compose: Hydra's function that composes the configuration of a job.
        job_overrides: of all jobs, in order; equal ones are one job.
        first: the number of the first job.
    """

    def __init__(
        self,
        config: DictConfig,
        compose: Callable[[DictConfig, list[str]], DictConfig],
        job_overrides: Sequence[Sequence[str]],
        first: int = 0,
    ) -> None:
        super().__init__(config, compose, first)
        all_jobs = [list(overrides) for overrides in job_overrides]
        line = typed_lines(config.hydra)
        names = name_jobs(all_jobs, existing_jobs(self.sweep_dir), line)
        self.names = dict(zip(map(tuple, all_jobs), names, strict=True))
        self.jobs = [self.add(overrides, name) for overrides, name in self.names.items()]

    def record(self) -> None:
        """List the jobs in the sweep's directory, so that an interrupted sweep can be resumed.

        Raises:
            OSError: it is not writable.
        """
        record_sweep(self.sweep_dir, typed_lines(self.config.hydra), self.names)


def _lock_directory(run_dir: Path) -> tuple[Path, IO[bytes]]:
    """Lock the directory of a job, or another one if what is there is not ours."""
    if not _is_ours(run_dir):
        run_dir = unique_dir(run_dir.parent, run_dir.name)
    make_room(run_dir / LOCK)
    return run_dir, take_lock(run_dir)


def _is_ours(run_dir: Path) -> bool:
    """Whether a job has been in a directory, or it is new or empty, as a kill may leave it."""
    with contextlib.suppress(FileExistsError):  # a file
        run_dir.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in run_dir.iterdir()}
        return bool(names & {LOG, LOCK, FINGERPRINT}) or not (names or run_dir.is_symlink())
    return False


def _clear_directory(
    run_dir: Path, lock: IO[bytes], fingerprint: dict[str, Any]
) -> tuple[Path, IO[bytes]]:
    """Remove what an earlier start has left, unless the run can go on from it."""
    before = read_fingerprint(run_dir)
    if before and before != fingerprint:  # the YAML files have changed
        with lock:
            aside = unique_dir(run_dir.parent / BEFORE, run_dir.name)
            if os.name == "nt":  # a directory with an open file is not moved there
                lock.close()
            move_directory(run_dir, aside)
            run_dir.mkdir()
            return run_dir, take_lock(run_dir)
    if (run_dir / LOG).exists() and not any((run_dir / CHECKPOINTS).glob("*.ckpt")):
        for path in run_dir.iterdir():
            if path.name != LOCK:
                _remove(path)
    return run_dir, lock


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def make_room(path: Path) -> None:
    """Remove or rename what is not a regular file where a file is to be written.

    Opening a FIFO would wait, a link leads elsewhere, and a folder cannot be replaced by a file.
    """
    if path.is_dir() and not path.is_symlink():
        path.rename(unique_dir(path.parent, f"{path.name}.before") / path.name)
    elif path.is_symlink() or not path.is_file():
        path.unlink(missing_ok=True)


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
