"""Shows the progress of a search: `7/24 · best trial 5 of adamw 0.61 · 1 diverged · ETA 2:10`."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lit_optim.printing import Console
from lit_optim.runs.job import JobRecord
from lit_optim.search.data import Trial
from lit_optim.search.source import SearchSource
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.progress import ProgressLine, label_jobs

COUNTED = ("pruned", "diverged", "failed")


class SearchProgress(ProgressLine):
    """Shows the trials of a search: in a terminal one live line, otherwise a line per run.

    Args:
        source: of the runs.
        console: where to show it.
        clock: returns seconds, for the remaining time.
    """

    def __init__(
        self,
        source: SearchSource,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, clock)
        self._source, self._search = source, source.search
        self._total = len(self._search.studies) * self._search.settings.trials
        self._done_before = self._done
        labels = label_jobs([study.fixed for study in self._search.studies])
        self._labels = {study.name: labels[study.fixed] for study in self._search.studies}

    @property
    def _done(self) -> int:
        return sum(map(len, self._source.ends.values()))

    def set_running(self, running: Sequence[PlannedJob]) -> None:
        """Set the runs that are running."""
        self._set_running([job.place.rpartition("/")[0].replace("/", " ") for job in running])

    def add_known(self, job: PlannedJob, result: Mapping[str, Any] | None) -> None:
        """Count a run that was done before."""

    def add_ended(
        self, job: PlannedJob, name: str, record: JobRecord, result: Mapping[str, Any] | None
    ) -> None:
        """Count a run that has ended.

        Args:
            job: that has ended.
            name: of its directory.
            record: how it ended.
            result: its result; None if it failed.
        """
        self._last = self._clock()
        self._tell_end(job.place, record)

    def _parts(self, room: float = math.inf) -> list[str]:
        ends = [end for ended in self._source.ends.values() for _, end in ended]
        counts = Counter[str](end.kind for end in ends)
        after = [f"{counts[kind]} {kind}" for kind in COUNTED if counts[kind]]
        left = self._left(self._done - self._done_before, self._total - self._done)
        after += [f"ETA {left}"] if left else []
        return self._add_best([f"{self._done}/{self._total}"], self._best(), after, room)

    def _best(self) -> tuple[str, str] | None:
        """The label of the best trial so far, and its value."""
        sign = 1.0 if self._search.settings.mode == "min" else -1.0
        found = [
            (sign * end.value, trial)
            for ended in self._source.ends.values()
            for trial, end in ended
            if end.kind == "completed" and end.value is not None
        ]
        if not found:
            return None
        value, trial = min(found, key=lambda pair: pair[0])
        return self._label(trial), f"{sign * value:.4g}"

    def _label(self, trial: Trial) -> str:
        study = f" of {self._labels[trial.study.name]}" if len(self._search.studies) > 1 else ""
        return f"trial {trial.number}{study}"
