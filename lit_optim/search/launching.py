"""A search by launchers of others, such as submitit's: they start workers, which do the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

import lit_optim
from lit_optim.config.paths import quote
from lit_optim.config.places import conf_dir_option
from lit_optim.config.stored import stored_overrides
from lit_optim.config.targets import TARGET
from lit_optim.errors import UsageError, escape, first_line, how_many
from lit_optim.interrupts import interruptible
from lit_optim.runs.failures import FAILURE, USAGE_ERROR
from lit_optim.runs.layout import LOG, RESULT, SEARCH
from lit_optim.search.running import SearchRun
from lit_optim.sweeps.ending import last_line
from lit_optim.sweeps.other_launchers import share_of_cpus, wait_for_others
from lit_optim.sweeps.pool import end_with_line, ending_in_a_line

#: In the directory of a search, with a directory for each worker.
WORKERS = ".workers"
#: Where runs are, in the directory of a search.
PLACES = ("*/*", "*/*/*")
SECONDS_BETWEEN_LOOKS = 2.0
#: Our own launcher, which runs the trials itself.
OWN = "hydra_plugins.lit_optim_launcher."


@dataclass(frozen=True)
class WorkerTask:
    """What a launcher runs in place of a training, in whatever process: it starts a worker.

    A process of its own has none of the state of the process of the launcher.

    Args:
        words: of the command line, after `python -m lit_optim`.
        root: where this package is, which may not be installed.
    """

    words: tuple[str, ...]
    root: str

    def __call__(self, cfg: DictConfig) -> int:
        """Called by the launcher; return the exit code."""
        paths = [self.root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # a run that needs several processes starts them itself
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment["PYTHONSAFEPATH"] = "1"  # the worker puts the current directory last
        place = Path(HydraConfig.get().runtime.output_dir)
        with (place / LOG).open("ab") as log:
            command = [sys.executable, "-m", "lit_optim", *self.words]
            return subprocess.call(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )


def find_other_launcher(config: DictConfig) -> DictConfig | None:
    """The configuration of the launcher of a search; None for ours."""
    launcher = config.hydra.launcher
    launcher = launcher.get("inner", launcher)  # `WrapLauncher` has put another one around it
    return None if str(launcher[TARGET]).startswith(OWN) else launcher


class WorkerLaunches:
    """Begins a search, and lets a launcher start workers until all trials have ended.

    Args:
        run: the search.
        hydra_context: of Hydra.
        launcher: its configuration.
        n_workers: how many at a time, each with one run at a time.
    """

    def __init__(
        self, run: SearchRun, hydra_context: HydraContext, launcher: DictConfig, n_workers: int
    ) -> None:
        self._run, self.n_workers = run, n_workers
        self._context, self._launcher = hydra_context, launcher
        self._places: list[Path] = []  # of the workers of the last launch
        self._problem = ""
        self.config = run.config.copy()
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.launcher = launcher

    def run(self) -> None:
        """Run the search.

        Raises:
            SystemExit: with a line, where nothing can be begun, or no worker gets anywhere.
        """
        run, timeout = self._run, self._run.search.settings.timeout
        start = time.monotonic()
        with ending_in_a_line(
            run.console, run.sweep_dir, lambda: how_many(self._count_done(), "run")
        ):
            try:
                self._check_launcher()
                with run.signals.noting():
                    run.begin()
            except UsageError as error:
                end_with_line(run.console, first_line(error), USAGE_ERROR)
            finally:
                run.starter.close()  # a tournament may have measured something
            while True:
                done = self._count_done()
                with self._telling(done):
                    codes = self._launch(self.n_workers)
                is_late = timeout is not None and time.monotonic() - start >= timeout
                if 0 in codes or is_late:  # a worker ends well only where nothing is left
                    return
                if self._count_done() == done:
                    self._give_up()

    def _check_launcher(self) -> None:
        if self._launcher.get("tasks_per_node", 1) != 1:
            raise UsageError(
                "launcher.tasks_per_node must be 1 in a search: each task would be a worker, which "
                "starts the processes of its runs itself"
            )

    @contextmanager
    def _telling(self, before: int) -> Iterator[None]:
        """Tell, while workers run, how many runs are done."""
        run, is_over = self._run, threading.Event()

        def tell() -> None:
            told = before
            while not is_over.wait(SECONDS_BETWEEN_LOOKS):
                if (done := self._count_done()) != told:
                    told = done
                    run.console.print(f"runs done: {done}", highlight=False)

        where = escape(f"{self.n_workers} workers; what they print: {run.sweep_dir / WORKERS}")
        run.console.print(where, soft_wrap=True, markup=False, highlight=False)
        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _count_done(self) -> int:
        """How many runs have a result: of trials, and of a tournament those that are compared."""
        root = self._run.sweep_dir
        found = (path for place in PLACES for path in root.glob(f"{place}/{RESULT}"))
        # hidden ones are timed runs, and those of before
        return sum(not is_hidden(path.relative_to(root)) for path in found)

    def _launch(self, count: int) -> list[Any]:
        """Let workers run until they end; return their exit codes, None of one that was lost."""
        run = self._run
        first = len([*(run.sweep_dir / WORKERS).glob("*")])
        self._places = [run.sweep_dir / WORKERS / str(first + place) for place in range(count)]
        lines = []
        for place in self._places:
            place.mkdir(parents=True, exist_ok=True)
            subdir = f"hydra.sweep.subdir={quote(str(place.relative_to(run.sweep_dir)))}"
            lines.append([subdir, "hydra.output_subdir=null"])
        root = str(Path(lit_optim.__file__).parents[1])
        inner = Plugins.instance().instantiate_launcher(
            hydra_context=self._context,
            task_function=cast(TaskFunction, WorkerTask(self._words(), root)),
            config=self.config,
        )
        with share_of_cpus(self._launcher, count), interruptible():
            try:
                returned: Sequence[JobReturn | None] = inner.launch(lines, first)
            except Exception as error:  # a worker was lost, and the launcher has given up
                self._problem = first_line(error)
                returned = wait_for_others(error)
                message = escape(f"a worker was lost: {self._problem}")
                run.console.print(message, soft_wrap=True, markup=False, highlight=False)
        return [None if one is None else one._return_value for one in returned]

    def _words(self) -> tuple[str, ...]:
        """The command line of a worker, after `python -m lit_optim`."""
        typed = [line for line in self._run.search.line if is_typed_again(line)]
        return (*conf_dir_option(), "worker", str(self._run.sweep_dir), *typed)

    def _give_up(self) -> NoReturn:
        logs = [place / LOG for place in self._places if (place / LOG).is_file()]
        why = f"{last_line(logs[0])}; {logs[0]}" if logs else self._problem or "none was started"
        end_with_line(self._run.console, f"no worker has ended a run: {why}", FAILURE)


def is_hidden(path: Path) -> bool:
    """Whether a part of a path begins with a dot, which the reports leave out."""
    return any(part.startswith(".") for part in path.parts)


def is_typed_again(line: str) -> bool:
    """Whether a line is one that the directory of a search cannot decide for its workers."""
    try:
        return not stored_overrides([line], SEARCH, multirun=True)
    except UsageError:
        return True
