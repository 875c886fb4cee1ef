"""The jobs of a tournament: the trials of all searches, then the runs that are compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from lit_optim.results.tournament_record import Entry, Tournament
from lit_optim.runs.layout import FINAL, UNTUNED
from lit_optim.search.data import Study, Trial, TrialEnd
from lit_optim.search.open_trials import MOST_STARTS
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.returns import Outcome
from lit_optim.sweeps.source import JobSource
from lit_optim.tournament.crashes import Crashes


class Ends(Protocol):
    """What is known of trials that have ended: `lit_optim.search.store.Store`."""

    def best(self, study: Study) -> tuple[Trial, TrialEnd] | None:
        """The best of those that were completed."""

    def ends(self, study: Study) -> Sequence[tuple[Trial, TrialEnd]]:
        """All, by number."""


def find_best(store: Ends, study: Study) -> Trial | None:
    """The trial at which a contestant is compared.

    Returns:
        The best; where all have diverged the first of them, so that it is seen to diverge; None
        where all have failed.
    """
    best = store.best(study)
    if best is not None:
        return best[0]
    diverged = [trial for trial, end in store.ends(study) if end.kind == "diverged"]
    return diverged[0] if diverged else None


class Trials(JobSource, Protocol):
    """The jobs of the searches."""

    def has_ended(self, study: Study) -> bool:
        """Whether all trials of a study have ended."""


class TournamentSource:
    """Gives the trials of all studies, then of each the runs that are compared.

    Those are runs with fresh seeds: at the best trial of the study, and at the default lr. They
    begin as soon as their study has ended, whatever other studies do.

    Args:
        trials: the jobs of the searches.
        tournament: the contestants and their tasks.
        studies: of the searches.
        best: the best trial of a study that has ended; None: all have failed.
        lines: the overrides of a trial's run with a seed.
        add: makes a job of overrides and a directory.
        crashes: of the runs that are compared.
    """

    def __init__(
        self,
        trials: Trials,
        tournament: Tournament,
        studies: Sequence[Study],
        best: Callable[[Study], Trial | None],
        lines: Callable[[Trial, int], Sequence[str]],
        add: Callable[[Sequence[str], str], PlannedJob],
        crashes: Crashes,
    ) -> None:
        self._trials, self._settings = trials, tournament.settings
        self._crashes = crashes
        self._best, self._lines, self._add = best, lines, add
        entries = {entry.study: entry for entry in tournament.entries}
        self._searched = [(study, entries[study.name]) for study in studies]
        # final runs and those that crashed, then untuned ones and those that are held elsewhere
        self._first: deque[PlannedJob] = deque()
        self._last: deque[PlannedJob] = deque()
        self._own: set[PlannedJob] = set()
        self._running: set[PlannedJob] = set()
        #: How many of the runs that are compared have ended, and how many there may be.
        self.ended = 0
        counts = [1 + (self._settings.untuned and bool(e.untuned)) for e in tournament.entries]
        self.total = len(self._settings.seeds) * sum(counts)

    @property
    def is_exhausted(self) -> bool:
        """Whether no job will come any more, however those that run end."""
        own = self._searched or self._first or self._last or self._running
        return self._trials.is_exhausted and not own

    def take(self) -> PlannedJob | None:
        """The next job to start; None: there is none at the moment."""
        trial = self._trials.take()
        if trial is not None:
            return trial
        for study, entry in [*self._searched]:
            if self._trials.has_ended(study):
                self._searched.remove((study, entry))
                self._enter(study, entry)
        while waiting := self._first or self._last:
            job = waiting.popleft()
            if self._crashes.count(job) < MOST_STARTS:
                self._running.add(job)
                return job
            self.ended += 1
        return None

    def _enter(self, study: Study, entry: Entry) -> None:
        """Add the runs that are compared, of a study that has ended."""
        best = self._best(study)
        for seed in self._settings.seeds:
            if best is not None:
                self._add_to(self._first, self._lines(best, seed), study, FINAL, seed)
            if self._settings.untuned and entry.untuned:
                lines = [*entry.untuned, f"++seed={seed}"]
                self._add_to(self._last, lines, study, UNTUNED, seed)

    def _add_to(
        self,
        waiting: deque[PlannedJob],
        lines: Sequence[str],
        study: Study,
        role: str,
        seed: int,
    ) -> None:
        job = self._add(lines, str(Path(study.name) / role / f"seed={seed}"))
        self._own.add(job)
        waiting.append(job)

    def put_back(self, job: PlannedJob) -> None:
        """Called for a job that could not start, as a process still runs in its directory."""
        if job not in self._own:
            self._trials.put_back(job)
            return
        self._running.discard(job)
        self._last.append(job)  # behind those that can start

    def watch(self, job: PlannedJob, run_dir: Path) -> None:
        """Called now and then while a job runs."""
        if job not in self._own:
            self._trials.watch(job, run_dir)

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """Called when a job has ended, or was found done."""
        if job not in self._own:
            self._trials.end(job, outcome)
            return
        self._running.discard(job)
        if not outcome.is_done:
            self._crashes.add(job)
            self._first.append(job)  # given again, or counted as ended
        else:
            self.ended += 1
