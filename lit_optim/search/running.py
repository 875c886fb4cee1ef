"""Runs a search in this process, which hands its runs to others: the parent, or a worker."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lit_optim.config.origin import typed_lines
from lit_optim.errors import UsageError, first_line, how_many
from lit_optim.printing import Console
from lit_optim.runs.failures import USAGE_ERROR
from lit_optim.runs.layout import SEARCH
from lit_optim.runs.locks import is_held
from lit_optim.runs.resume import check_links
from lit_optim.search.data import Search
from lit_optim.search.progress import SearchProgress
from lit_optim.search.record import has_begun, name_search, read_start, write_search
from lit_optim.search.source import SearchSource, TrialsFailed
from lit_optim.sweeps.forked_jobs import JobServer
from lit_optim.sweeps.plan import JobPlan
from lit_optim.sweeps.pool import JobPool, Progress, end_with_line, ending_in_a_line
from lit_optim.sweeps.records import record_sweep
from lit_optim.sweeps.signals import Signals
from lit_optim.sweeps.source import JobSource
from lit_optim.sweeps.starters import JobStarter
from lit_optim.system import can_fork

#: For a worker, at a search that is about to begin.
SECONDS_BETWEEN_LOOKS = 0.2


@contextmanager
def composing_by_itself() -> Iterator[None]:
    """Within it our own functions may compose configurations, though Hydra is running."""
    running = GlobalHydra.instance()
    before, running.hydra = running.hydra, None
    try:
        yield
    finally:
        running.hydra = before


class SearchRun:
    """A search in one process.

    Args:
        search: to run.
        config: of the sweep, with Hydra's part, which names its directory.
        compose: Hydra's function that composes the configuration of a job.
        n_jobs: how many runs at a time.
        fresh: make every run a new process.
        make_source: makes the source of the jobs of that of the trials, as a tournament does.
    """

    def __init__(
        self,
        search: Search,
        config: DictConfig,
        compose: Callable[[DictConfig, list[str]], DictConfig],
        n_jobs: int = 1,
        fresh: bool = False,
        make_source: Callable[[SearchSource, SearchRun], JobSource] | None = None,
    ) -> None:
        self.search, self.config, self.n_jobs = search, config, n_jobs
        #: When it was begun or resumed, by whichever process, in seconds since 1970.
        self.started = time.time()
        self._make_source = make_source
        self.plan = JobPlan(config, compose)
        self.signals, self.console = Signals(), Console(stderr=True)
        server = None if fresh or not can_fork() else JobServer
        self.starter = JobStarter(n_jobs, server, self.signals.check)
        atexit.register(self.starter.close)

    @property
    def sweep_dir(self) -> Path:
        """Where the search is."""
        return self.plan.sweep_dir

    def begin(self) -> None:
        """Create the search, or check that it is the one that was begun; by one process only.

        Raises:
            UsageError: it was begun otherwise, its storage cannot be used, or a link leads out of
                its directory.
            OSError: its directory is not writable.
        """
        check_links(self.sweep_dir)
        self.search = name_search(self.search, self.sweep_dir)
        if not (self.sweep_dir / SEARCH).exists():  # else not before it is known to be the same
            self._record(has_begun=False)
        self.store = self._open_store()
        self.store.begin({study.name: self._fingerprint(study) for study in self.search.studies})
        self._record(has_begun=True)

    def _record(self, has_begun: bool) -> None:
        record_sweep(self.sweep_dir, typed_lines(self.config.hydra), {})
        write_search(self.search, self.sweep_dir, has_begun, self.started)

    def join(self) -> None:
        """Open a search that another process has begun, or is about to begin.

        Raises:
            UsageError: that process has ended before, its storage cannot be used, or a link leads
                out of the directory.
        """
        check_links(self.sweep_dir)
        while not has_begun(self.sweep_dir):
            if not is_held(self.sweep_dir) and not has_begun(self.sweep_dir):
                raise UsageError(
                    f"{self.sweep_dir}: this search has no trials yet, and the process that was "
                    f"about to begin it has ended; start it by -m resume={self.sweep_dir}"
                )
            self.signals.check()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self.search = name_search(self.search, self.sweep_dir)
        self.started = read_start(self.sweep_dir)
        self.store = self._open_store()

    def _open_store(self) -> Any:
        from lit_optim.search.store import open_store  # which imports Optuna

        return open_store(self.search, self.sweep_dir)

    def _fingerprint(self, study: Any) -> dict[str, Any]:
        """What is the same in all runs of a study."""
        job = self.plan.add(study.fixed, study.name)
        fingerprint = self.plan.config_of(job).fingerprint
        self.plan.forget_config(job)
        return fingerprint

    def run(self, begins: bool = True) -> None:
        """Run trials until all have ended, or the time is over.

        Args:
            begins: whether to create the search first; a worker joins one.

        Raises:
            SystemExit: with a line, after a mistake or a signal.
        """
        trials: SearchSource | None = None

        def count() -> str:
            ended = 0 if trials is None else sum(map(len, trials.ends.values()))
            every = len(self.search.studies) * self.search.settings.trials
            return f"{ended} of {how_many(every, 'trial')}"

        try:
            with self.signals.noting(), ending_in_a_line(self.console, self.sweep_dir, count):
                if begins:
                    self.begin()
                else:
                    self.join()
                trials = SearchSource(
                    self.search, self.store, self.plan, elapsed=self._count_seconds()
                )
                self._tell_known(trials)
                make = self._make_source
                source = trials if make is None else make(trials, self)
                JobPool(
                    self.plan, self.starter, source, self.n_jobs, self.make_progress(trials),
                    self.signals, self.console,
                ).run()  # fmt: skip
                if trials.is_late and not all(map(trials.has_ended, self.search.studies)):
                    limit = f"search.timeout={self.search.settings.timeout:g}"
                    self.console.print(f"{limit} is over with {count()} done", highlight=False)
        except TrialsFailed as error:
            end_with_line(self.console, first_line(error), error.code)
        except UsageError as error:
            end_with_line(self.console, first_line(error), USAGE_ERROR)
        finally:
            self.starter.close()
            if trials is not None:
                trials.close()

    def _count_seconds(self) -> float:
        """The seconds since the search was begun or resumed; another machine has another clock."""
        return max(0.0, time.time() - self.started) if self.started else 0.0

    def make_progress(self, trials: SearchSource) -> Progress:
        """What shows how far the search is."""
        return SearchProgress(trials, self.console)

    def _tell_known(self, trials: SearchSource) -> None:
        done = sum(map(len, trials.ends.values()))
        if done:
            total = len(self.search.studies) * self.search.settings.trials
            self.console.print(f"{done} of {how_many(total, 'trial')} already done")
