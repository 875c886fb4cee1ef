"""A trial that this process runs: its seeds, which of them have ended, and how the trial ends."""

from __future__ import annotations

import contextlib
import math
from collections import Counter, deque
from collections.abc import Mapping
from statistics import fmean
from typing import IO, Any

from lit_optim.runs.failures import USAGE_ERROR
from lit_optim.runs.layout import STOP
from lit_optim.runs.status import Status
from lit_optim.search.data import Settings, Trial, TrialEnd
from lit_optim.search.studies import job_lines
from lit_optim.search.watching import missing_metric
from lit_optim.sweeps.plan import JobPlan, PlannedJob
from lit_optim.sweeps.records import write_json
from lit_optim.sweeps.returns import Outcome, read_value

#: How often a run is started that crashes.
MOST_STARTS = 2


class OpenTrial:
    """A trial that this process runs.

    Args:
        trial: with its values.
        lock: of its directory.
        settings: of the search.
        plan: for its jobs.
        place: its directory, in that of the sweep.
    """

    def __init__(
        self, trial: Trial, lock: IO[bytes], settings: Settings, plan: JobPlan, place: str
    ) -> None:
        self.trial, self.lock, self._settings, self._plan = trial, lock, settings, plan
        self.jobs = [
            plan.add(job_lines(trial, seed), f"{place}/seed={seed}") for seed in settings.seeds
        ]
        self._waiting = deque(self.jobs)
        self._running: list[PlannedJob] = []
        self._outcomes: dict[PlannedJob, Outcome] = {}
        self._starts: Counter[PlannedJob] = Counter()
        self._ended_by: Outcome | None = None

    def take(self) -> PlannedJob | None:
        """The next run to start; None: there is none at the moment."""
        awaits_first = self._settings.pruner != "none" and self.jobs[0] not in self._outcomes
        if not self._waiting or (awaits_first and self._running):
            return None
        job = self._waiting.popleft()
        self._running.append(job)
        return job

    def put_back(self, job: PlannedJob) -> None:
        """Take back a run that could not start."""
        self._running.remove(job)
        self._waiting.appendleft(job)

    def is_looked_at(self, job: PlannedJob) -> bool:
        """Whether the pruner looks at a run."""
        return self._settings.pruner != "none" and job == self.jobs[0]

    def stop(self, job: PlannedJob) -> None:
        """Let a run end after its next validation."""
        path = self._plan.run_dir(job) / STOP
        with contextlib.suppress(OSError):  # a full disk: it goes on to its end
            if not path.exists():
                write_json(path, {"trial": self.trial.number})

    def note(self, job: PlannedJob, outcome: Outcome) -> TrialEnd | None:
        """Note how a run ended.

        Returns:
            How the trial has ended; None if it goes on.

        Raises:
            UsageError: the run has no value of the metric of the search.
        """
        self._running.remove(job)
        record = outcome.record
        self._starts[job] += 1
        has_crashed = not record.is_done and record.exit_code != USAGE_ERROR
        if has_crashed and self._starts[job] < MOST_STARTS and self._ended_by is None:
            self._waiting.append(job)
            return None
        self._outcomes[job] = outcome
        if self._ends_trial(job, record.status) and self._ended_by is None:
            self._ended_by = outcome
            self._waiting.clear()
            for other in self._running:
                self.stop(other)
        return None if self._waiting or self._running else self._end()

    def _ends_trial(self, job: PlannedJob, status: Status) -> bool:
        # a run at which the pruner does not look was stopped because another has ended the trial
        return status != Status.COMPLETED and (status != Status.PRUNED or self.is_looked_at(job))

    @property
    def is_refused(self) -> bool:
        """Whether the run that ended the trial was refused, and has not crashed."""
        return self._ended_by is not None and self._ended_by.record.exit_code == USAGE_ERROR

    def _end(self) -> TrialEnd:
        outcomes = [self._outcomes[job] for job in self.jobs if job in self._outcomes]
        attributes = self._describe(outcomes)
        if self._ended_by is None:
            values = [self._value(outcome.result or {}) for outcome in outcomes]
            value = fmean(values) if all(map(math.isfinite, values)) else math.nan
            return TrialEnd("completed", value, attributes)
        result = self._ended_by.result or {}
        match self._ended_by.record.status:
            case Status.DIVERGED:
                return TrialEnd("diverged", _finite(read_value(result)), attributes)
            case Status.PRUNED:
                return TrialEnd("pruned", _finite(self._value(result)), attributes)
        message = self._ended_by.record.message
        return TrialEnd("failed", None, attributes | {"message": message})

    def _value(self, result: Mapping[str, Any]) -> float:
        """The value of a run by which the search judges it.

        Raises:
            UsageError: it has none.
        """
        metric, at = self._settings.metric, self._settings.at
        values = result.get("best" if at == "best" else "final")
        values = values if isinstance(values, Mapping) else {}
        if metric not in values:
            raise missing_metric(metric, values)
        return float(values[metric])

    def _describe(self, outcomes: list[Outcome]) -> dict[str, Any]:
        """What the store keeps of the runs."""
        results = [outcome.result or {} for outcome in outcomes]
        root = self._plan.sweep_dir
        return {
            "run_dirs": [str(outcome.run_dir.relative_to(root)) for outcome in outcomes],
            **{key: [result.get(key) for result in results] for key in ("seconds", "evaluations")},
            "steps": [result.get("steps") for result in results],
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
