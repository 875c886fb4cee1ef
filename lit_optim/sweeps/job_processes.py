"""Runs the jobs of any Hydra app in processes of their own, and returns what its task returned.

Each job is what Hydra's basic launcher makes of it: the same directories, logs, configuration and
`JobReturn`. It differs in that it gets a new process.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lit_optim.errors import UsageError, first_line
from lit_optim.sweeps.handing_over import (
    FunctionReference,
    ProcessState,
    pack,
    refer_to,
    try_to_pack,
)
from lit_optim.system import signal_name
from lit_optim.threads import shared_cpus

log = logging.getLogger(__name__)

SECONDS_TO_END = 45  # for a job after Ctrl-C, which it gets too


@dataclass
class _Running:
    """A job in its process, and the connection by which its result comes."""

    index: int
    config: DictConfig
    process: SpawnProcess
    connection: Connection


class JobTraceback(Exception):
    """The traceback of a job as text, since a traceback stays in its process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class JobProcesses:
    """Starts the jobs of a sweep, `n_jobs` at a time.

    Args:
        hydra_context: of the app.
        task_function: of the app.
        config: of the sweep.
        n_jobs: the jobs that run at a time; they share the CPUs.
    """

    def __init__(
        self,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
        n_jobs: int = 1,
    ) -> None:
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config, self.n_jobs = config, n_jobs

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Run the jobs; a job that fails stops no other one.

        Returns:
            What each job returned, or the exception that it raised, in the order of the jobs.

        Raises:
            UsageError: the task, or the app's script, is not fit for another process.
        """
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UsageError(
                "hydra/launcher=processes imports the script in each process: call its main "
                'function under `if __name__ == "__main__":`'
            )
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        sweep_dir = Path(str(self.config.hydra.sweep.dir))
        sweep_dir.mkdir(parents=True, exist_ok=True)
        log.info("Launching %d jobs in processes, %d at a time", len(job_overrides), self.n_jobs)
        waiting = deque(
            (index, self._compose(index, list(overrides)))
            for index, overrides in enumerate(job_overrides, initial_job_idx)
        )
        with TemporaryDirectory() as folder:
            return self._run_all(waiting, Path(folder))

    def _run_all(self, waiting: deque[tuple[int, DictConfig]], folder: Path) -> list[JobReturn]:
        state = ProcessState.read()
        running: dict[Connection, _Running] = {}
        ended: dict[int, JobReturn] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.n_jobs:
                    started = self._start(*waiting.popleft(), state, folder)
                    running[started.connection] = started
                for connection in wait([*running]):
                    job = running.pop(cast(Connection, connection))
                    ended[job.index] = _receive(job)
        except KeyboardInterrupt:
            for job in running.values():
                job.process.join(SECONDS_TO_END)
            raise
        finally:
            for job in running.values():
                job.process.kill()
        return [ended[index] for index in sorted(ended)]

    def _compose(self, index: int, overrides: list[str]) -> DictConfig:
        log.info("\t#%d : %s", index, " ".join(filter_overrides(overrides)))
        load = self.hydra_context.config_loader.load_sweep_config
        config = load(self.config, overrides)
        with read_write(config), open_dict(config):
            config.hydra.job.id = config.hydra.job.num = index
            for plugin in ("launcher", "sweeper"):
                # Hydra imports the modules of plugins twice: pickle finds another class there
                plain = OmegaConf.to_container(config.hydra[plugin], resolve=False)
                config.hydra[plugin] = OmegaConf.create(plain)
        return config

    def _start(self, index: int, config: DictConfig, state: ProcessState, folder: Path) -> _Running:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        task = refer_to(self.task_function) or self.task_function
        work = _Work(task, config, self.hydra_context, state)
        # as a file: multiprocessing would wait for a process that ends before it has read so much
        path = folder / f"{index}.pickle"
        try:
            path.write_bytes(pack(work))
        except Exception as error:
            raise UsageError(
                f"hydra/launcher=processes cannot hand {self.task_function!r} over to another "
                "process: define it at the top of a module, or pip install cloudpickle "
                f"({first_line(error)})"
            ) from error
        process = context.Process(target=_work, args=(str(path), there), name=f"job {index}")
        with shared_cpus(self.n_jobs) if self.n_jobs > 1 else nullcontext():
            process.start()
        there.close()  # so that the end of the process is the end of the connection
        return _Running(index, config, process, here)


@dataclass
class _Work:
    """What a process gets."""

    task_function: Any
    config: DictConfig
    hydra_context: HydraContext
    state: ProcessState


def _work(path: str, connection: Connection) -> None:
    """Run a job in this process, and send what it returned."""
    overrides: list[str] = []
    try:
        work: _Work = pickle.loads(Path(path).read_bytes())
        overrides = list(work.config.hydra.overrides.task)
        returned = _run(work)
    except Exception as error:  # the job was not even started
        returned = JobReturn(overrides=overrides)
        returned.status, returned.return_value = JobStatus.FAILED, error
    value, told = returned._return_value, ""
    if isinstance(value, BaseException):
        told = "".join(traceback.format_exception(value))
    connection.send((_pack_return(returned), told))
    connection.close()


def _run(work: _Work) -> JobReturn:
    setup_globals()
    work.state.restore()
    task = work.task_function
    return run_job(
        hydra_context=work.hydra_context,
        task_function=task.resolve() if isinstance(task, FunctionReference) else task,
        config=work.config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _pack_return(returned: JobReturn) -> bytes:
    """Pickle what a job returned, without a value that cannot be pickled and read again."""
    packed = try_to_pack(returned)
    if packed is not None:
        return packed
    value = returned._return_value
    if returned.status == JobStatus.FAILED:
        returned.return_value = RuntimeError(f"{type(value).__name__}: {first_line(value)}")
    else:
        kind = type(value).__name__
        log.warning("The task returned a %s, which cannot be handed to the sweeper", kind)
        returned.return_value = None
    return pack(returned)


def _receive(job: _Running) -> JobReturn:
    """Take what a job sent; without that, how its process ended."""
    try:
        packed, told = job.connection.recv()
        job.process.join()
        returned: JobReturn = pickle.loads(packed)
        if isinstance(returned._return_value, BaseException):
            returned._return_value.__cause__ = JobTraceback(told)
        return returned
    except (EOFError, OSError):
        job.process.join()
    finally:
        job.connection.close()
    code = job.process.exitcode or 0
    overrides = list(job.config.hydra.overrides.task)
    returned = JobReturn(overrides=overrides, task_name=JobRuntime.instance().get("name"))
    returned.status = JobStatus.COMPLETED if code == 0 else JobStatus.FAILED
    how = f"was killed by {signal_name(-code)}" if code < 0 else f"exited with code {code}"
    returned.return_value = None if code == 0 else RuntimeError(f"job {job.index} {how}")
    return returned
