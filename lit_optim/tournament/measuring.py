"""How long an update of each contestant takes: measured before, each alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from lit_optim.errors import UsageError
from lit_optim.results.history import read_history
from lit_optim.results.statistics import median
from lit_optim.runs.layout import HISTORY
from lit_optim.search.data import Choice, Study
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.returns import Outcome
from lit_optim.tournament.planning import with_values

#: Hidden, so that the reports do not take these runs for results.
DIRECTORY = ".timing"
#: Updates between two looks at the clock, and the number of looks. The first part is not counted:
#: memory is allocated and kernels are made in it.
UPDATES, LOOKS = 20, 4
#: For a run that is only timed.
SHORT = {
    "trainer.max_steps": str(UPDATES * LOOKS),
    "trainer.max_epochs": "null",
    "trainer.check_val_every_n_epoch": "null",
    "trainer.val_check_interval": str(UPDATES),
    "trainer.limit_val_batches": "1",
    "test": "false",
}


class TimingSource:
    """Gives a short run of each study, one at a time, however many jobs may run.

    Args:
        studies: of the tournament.
        known: seconds of an update, of those that were measured before.
        add: makes a job of overrides and a directory.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        known: Mapping[str, float],
        add: Callable[[Sequence[str], str], PlannedJob],
    ) -> None:
        self.seconds = dict(known)
        self._studies: dict[PlannedJob, Study] = {}
        for study in studies:
            if study.name not in known:
                job = add(timing_lines(study), str(Path(DIRECTORY) / (study.name or "study")))
                self._studies[job] = study
        self._waiting = deque(self._studies)
        self._runs = False

    @property
    def is_exhausted(self) -> bool:
        """Whether all have been given."""
        return not self._waiting and not self._runs

    def take(self) -> PlannedJob | None:
        """The next run; None while another one is measured."""
        if self._runs or not self._waiting:
            return None
        self._runs = True
        return self._waiting.popleft()

    def put_back(self, job: PlannedJob) -> None:
        """Called for a job that could not start, as a process still runs in its directory."""
        self._runs = False
        self._waiting.append(job)

    def watch(self, job: PlannedJob, run_dir: Path) -> None:
        """Does nothing."""

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """Note the seconds of an update.

        Raises:
            UsageError: the run has failed, so that no budget in seconds can be made.
        """
        self._runs = False
        study = self._studies[job]
        found = read_seconds(outcome.run_dir) if outcome.is_done else math.nan
        if not math.isfinite(found):
            raise UsageError(
                f"tournament.budget=seconds: {study.name or 'the study'} could not be timed, see "
                f"{outcome.run_dir}"
            )
        self.seconds[study.name] = found


def timing_lines(study: Study) -> list[str]:
    """The overrides of the run by which a study is timed: at the lowest values of its space."""
    space = study.space.items()
    low = {k: str(one.values[0] if isinstance(one, Choice) else one.low) for k, one in space}
    return [*with_values(study.fixed, low | SHORT)]


def read_seconds(run_dir: Path) -> float:
    """The seconds of an update, of a run that was timed: the median of its parts but the first.

    Returns:
        NaN where they are not known.
    """
    history = read_history(run_dir / HISTORY, [])
    ends = [*zip(history.step, history.seconds, strict=True)]
    parts = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(ends) if b > a]
    return median([part for part in parts if part > 0])
