"""Where the jobs of a search come from: trials that a store proposes, each with its seeds."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import gethostname

from lit_optim.errors import UsageError
from lit_optim.runs.failures import FAILURE, USAGE_ERROR
from lit_optim.runs.job import read_job
from lit_optim.runs.layout import trial_directory
from lit_optim.runs.locks import Held, is_held, take_lock
from lit_optim.search.data import Search, Study, Trial, TrialEnd
from lit_optim.search.open_trials import OpenTrial
from lit_optim.search.trial_store import TrialStore
from lit_optim.search.watching import HistoryWatch
from lit_optim.sweeps.jobs import UNWRITTEN
from lit_optim.sweeps.plan import JobPlan, PlannedJob
from lit_optim.sweeps.returns import Outcome

#: After these many seconds a process looks again at what other ones have done.
SECONDS_BETWEEN_LOOKS = 1.0
#: After so many failed trials, and no run that has worked, a process gives up.
MOST_FAILURES = 3
#: What a run or its launcher says where a disk is full.
FULL_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), UNWRITTEN)
#: The pause between two reads of the storage, as a multiple of the time that a read takes.
PAUSE_PER_READ = 50
#: No run has as many updates, whatever a storage says.
MOST_STEPS = 1 << 53


class TrialsFailed(UsageError):
    """No trial can be run here, as the message says; those that were tried are left to others.

    Args:
        message: one line.
        code: the exit code of the process.
    """

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code


class SearchSource:
    """Gives the runs of trials: those of trials that have begun first, then of the next trial.

    Studies take turns. A trial is locked by the process that runs it, so that several processes may
    share a search; one that another process has is left to it, and taken over if that process dies.
    With a pruner the other seeds of a trial wait for the first, at which the pruner looks. A run
    that crashes is run once again, from its checkpoint; then its trial has failed. A run that
    diverges ends its trial.

    Where no run works, as on a machine that lacks a package, no trial is to blame: a failure is
    told only once a run has worked here.

    Args:
        search: to run.
        store: of its trials.
        plan: for the jobs.
        clock: returns seconds, for the timeout.
        elapsed: the seconds since the search was begun or resumed, by whichever process.
    """

    def __init__(
        self,
        search: Search,
        store: TrialStore,
        plan: JobPlan,
        clock: Callable[[], float] = time.monotonic,
        elapsed: float = 0.0,
    ) -> None:
        self.search, self._store, self._plan, self._clock = search, store, plan, clock
        timeout = search.settings.timeout
        self._deadline = None if timeout is None else clock() + timeout - elapsed
        self._open: list[OpenTrial] = []
        self._has_worked = False
        self._untold: list[tuple[OpenTrial, TrialEnd]] = []  # failures, while no run has worked
        self._unfinished: dict[str, Sequence[int]] = {}
        self._next_look = self._next_try = -math.inf
        self._watch = HistoryWatch(search, store)
        #: The trials that have ended, of each study by its name.
        self.ends: dict[str, Sequence[tuple[Trial, TrialEnd]]] = {}
        self._look()

    @property
    def is_exhausted(self) -> bool:
        """Whether the time is over, or all trials have ended, in whichever process."""
        if self._open or self._untold:
            return False
        self._look()
        return self.is_late or not any(self._unfinished.values())

    def has_ended(self, study: Study) -> bool:
        """Whether all trials of a study have ended."""
        self._look()
        return not self._unfinished[study.name]

    @property
    def is_late(self) -> bool:
        """Whether the time of the search is over, so that no trial begins any more."""
        return self._deadline is not None and self._clock() >= self._deadline

    def _look(self) -> None:
        """Read the state of all trials, unless that was done a moment ago."""
        began = self._clock()
        if began < self._next_look:
            return
        for study in self.search.studies:
            self._read(study)
        ended = self._clock()
        self._next_look = ended + max(SECONDS_BETWEEN_LOOKS, PAUSE_PER_READ * (ended - began))

    def _read(self, study: Study) -> None:
        self._unfinished[study.name] = self._store.unfinished(study)
        self.ends[study.name] = self._store.ends(study)

    def take(self) -> PlannedJob | None:
        """The next run.

        Raises:
            TrialsFailed: all that could be tried have failed.
        """
        for trial in self._open:
            if (job := trial.take()) is not None:
                return job
        opened = self._try_next()
        if opened is None and self._untold and not self._open:
            raise self._give_up()
        return None if opened is None else opened.take()

    def _try_next(self) -> OpenTrial | None:
        """Open another trial; None: there is none, or that was found out a moment ago."""
        if self.is_late or self._clock() < self._next_try:
            return None
        opened = self._open_next()
        if opened is None:  # others have them, and may end or die
            self._look()
            opened = self._open_next()
        if opened is None:
            self._next_try = self._clock() + SECONDS_BETWEEN_LOOKS
        return opened

    def _open_next(self) -> OpenTrial | None:
        """Open a trial of the study that has the most left to do."""
        held = [*self._open, *(trial for trial, _ in self._untold)]
        mine = {(one.trial.study.name, one.trial.number) for one in held}
        left = {
            study.name: [n for n in self._unfinished[study.name] if (study.name, n) not in mine]
            for study in self.search.studies
        }
        for study in sorted(self.search.studies, key=lambda one: -len(left[one.name])):
            for number in left[study.name]:
                opened = self._claim(study, number)
                if opened is not None:
                    self._open.append(opened)
                    return opened
        return None

    def _claim(self, study: Study, number: int) -> OpenTrial | None:
        """Lock a trial and get its values; None if another process runs it, or has done so."""
        directory = self._plan.sweep_dir / trial_place(study, number)
        directory.mkdir(parents=True, exist_ok=True)
        if is_held(directory):
            return None
        try:
            lock = take_lock(directory)
        except Held:
            return None
        trial = self._store.propose(study, number)
        if trial is None:
            lock.close()
            self._read(study)
            return None
        place = trial_place(study, number)
        return OpenTrial(trial, lock, self.search.settings, self._plan, place)

    def put_back(self, job: PlannedJob) -> None:
        """Give a run again later."""
        self._trial_of(job).put_back(job)

    def watch(self, job: PlannedJob, run_dir: Path) -> None:
        """Report the values of a run, and stop it if the pruner says so.

        Raises:
            UsageError: its first validation does not have the metric of the search.
        """
        trial = self._trial_of(job)
        self._watch.check_metric(run_dir)
        if not trial.is_looked_at(job) or not self._watch.report(trial.trial, run_dir):
            return
        if self._store.should_prune(trial.trial, self._find_length(trial.trial.study, job)):
            trial.stop(job)

    def _find_length(self, study: Study, job: PlannedJob) -> int | None:
        """The updates of a whole run; None if that is not known yet."""
        known = [
            steps
            for _, end in self.ends[study.name]
            for steps in end.of_runs("steps")
            if end.kind == "completed" and type(steps) is int and 0 < steps < MOST_STEPS
        ]
        typed = self._plan.config_of(job).cfg.trainer.get("max_steps")
        return max(known, default=typed if isinstance(typed, int) and typed > 0 else None)

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """Note how a run ended, and tell the store if its trial has.

        Raises:
            UsageError: a run that has completed does not have the metric of the search.
            TrialsFailed: the disk is full, or some trials have failed and no run has worked here.
        """
        trial, record = self._trial_of(job), outcome.record
        if not record.is_done and any(text in record.message for text in FULL_DISK):
            raise TrialsFailed(f"{job.place}: {record.message}", FAILURE)
        if trial.is_looked_at(job):
            self._watch.report(trial.trial, outcome.run_dir)
        end = trial.note(job, outcome)
        self._plan.forget_config(job)
        self._has_worked |= record.is_done and not outcome.was_known
        if end is not None:
            self._open.remove(trial)
            self._untold.append((trial, end))
            self._next_try = -math.inf
        failed = [pair for pair in self._untold if pair[1].kind == "failed"]
        if not self._has_worked and len(failed) == MOST_FAILURES:
            raise self._give_up()
        for pair in [*self._untold]:
            if self._has_worked or pair not in failed or self._has_worked_before(pair[0]):
                self._tell(*pair)

    def _tell(self, trial: OpenTrial, end: TrialEnd) -> None:
        self._untold.remove((trial, end))
        self._store.tell(trial.trial, end)
        self._watch.forget(trial.trial)
        trial.lock.close()
        self._read(trial.trial.study)

    def _has_worked_before(self, failed: OpenTrial) -> bool:
        """Whether a run of an earlier process has worked on this machine.

        That says nothing about one that is refused: the other process may have had another line.
        """
        if failed.is_refused:
            return False
        root, here = self._plan.sweep_dir, gethostname()
        places = (
            place
            for ended in self.ends.values()
            for _, end in ended
            if end.kind == "completed"
            for place in end.of_runs("run_dirs")
        )
        records = (read_job(root / str(place)) for place in places)
        return any(record is not None and record.host == here for record in records)

    def _give_up(self) -> TrialsFailed:
        """The error that tells of the first failure."""
        trial, end = self._untold[0]
        name = trial_place(trial.trial.study, trial.trial.number)
        more = f" and {len(self._untold) - 1} more have" if len(self._untold) > 1 else " has"
        message = f"{name}{more} failed, and no run has worked here: {end.attributes['message']}"
        return TrialsFailed(message, USAGE_ERROR if trial.is_refused else FAILURE)

    def close(self) -> None:
        """Leave the trials that have not ended to others."""
        for trial in [*self._open, *(trial for trial, _ in self._untold)]:
            trial.lock.close()

    def _trial_of(self, job: PlannedJob) -> OpenTrial:
        return next(trial for trial in self._open if job in trial.jobs)


def trial_place(study: Study, number: int) -> str:
    """The directory of a trial, in that of the sweep."""
    name = trial_directory(number)
    return f"{study.name}/{name}" if study.name else name
