"""Watches the histories of runs for a pruner."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from lit_optim.errors import UsageError, printable
from lit_optim.results.history import read_history
from lit_optim.runs.layout import HISTORY
from lit_optim.search.data import Search, Trial
from lit_optim.search.trial_store import TrialStore
from lit_optim.untrusted import Unreadable


class HistoryWatch:
    """Reports what the histories of runs say to a store.

    Args:
        search: whose metric is reported.
        store: of its trials.
    """

    def __init__(self, search: Search, store: TrialStore) -> None:
        self._search, self._store = search, store
        self._seen: dict[tuple[str, int], tuple[int, int]] = {}  # size and time of a history
        self._reported: dict[tuple[str, int], set[int]] = {}
        self._has_metric = False

    def check_metric(self, run_dir: Path) -> None:
        """Look, until it is known, whether runs have the metric of the search.

        Raises:
            UsageError: they have others.
        """
        if self._has_metric:
            return
        try:
            history = read_history(run_dir / HISTORY, [])
        except Unreadable:
            return
        metric = self._search.settings.metric
        if history.step and metric not in history.metrics:
            raise missing_metric(metric, history.metrics)
        self._has_metric = bool(history.step)

    def report(self, trial: Trial, run_dir: Path) -> bool:
        """Report new values of a run; return whether there are any."""
        key, path = _key(trial), run_dir / HISTORY
        try:
            status = path.stat()
            seen = (status.st_size, status.st_mtime_ns)
            if self._seen.get(key) == seen:
                return False
            history = read_history(path, [])
        except (OSError, Unreadable):
            return False
        self._seen[key] = seen
        reported = self._reported.setdefault(key, set())
        values = history.metrics.get(self._search.settings.metric, ())
        new = {
            step: value
            for step, value in zip(history.step, values, strict=False)
            if step not in reported and math.isfinite(value)
        }
        for step, value in new.items():
            self._store.report(trial, step, value)
            reported.add(step)
        return bool(new)

    def forget(self, trial: Trial) -> None:
        """Forget a trial that has ended."""
        self._seen.pop(_key(trial), None)
        self._reported.pop(_key(trial), None)


def missing_metric(metric: str, known: Iterable[str]) -> UsageError:
    """The error of runs that do not have the metric of the search, but others."""
    others = ", ".join(map(printable, known)) or "none"
    return UsageError(f"search.metric={metric}: the runs have no such metric, but {others}")


def _key(trial: Trial) -> tuple[str, int]:
    return trial.study.name, trial.number
