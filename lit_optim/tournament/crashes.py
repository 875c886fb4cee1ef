"""How often the runs that are compared have crashed, in whichever worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.records import write_json
from lit_optim.untrusted import Unreadable, read_json_mapping

#: Beside the runs, a file for each that has crashed.
DIRECTORY = ".crashed"
COUNT, STARTED = "crashes", "started"


class Crashes:
    """Counts the crashes of runs in this process."""

    def __init__(self) -> None:
        self._own = Counter[PlannedJob]()

    def count(self, job: PlannedJob) -> int:
        """How often a run has crashed."""
        return self._own[job]

    def add(self, job: PlannedJob) -> None:
        """Count one more."""
        self._own[job] += 1


class SharedCrashes(Crashes):
    """Counts those of all processes since the tournament was begun or resumed.

    Args:
        run_dir: the directory of a run.
        started: when that was; another number begins a new count.
    """

    def __init__(self, run_dir: Callable[[PlannedJob], Path], started: float) -> None:
        super().__init__()
        self._run_dir, self._started = run_dir, started

    def count(self, job: PlannedJob) -> int:
        """How often a run has crashed; what the file says may be anything."""
        known = 0
        with suppress(Unreadable):
            found = read_json_mapping(self._file(job))
            count = found.get(COUNT)
            if found.get(STARTED) == self._started and isinstance(count, int):
                known = count
        return max(super().count(job), known)

    def add(self, job: PlannedJob) -> None:
        """Count one more; on a full disk only here."""
        count = self.count(job) + 1
        self._own[job] = count
        file = self._file(job)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {STARTED: self._started, COUNT: count})

    def _file(self, job: PlannedJob) -> Path:
        run_dir = self._run_dir(job)
        return run_dir.parent / DIRECTORY / f"{run_dir.name}.json"
