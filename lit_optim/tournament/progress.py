"""Shows the progress of a tournament: its trials, and the runs that are compared."""

from __future__ import annotations

from typing import Any

from lit_optim.search.progress import SearchProgress
from lit_optim.tournament.source import TournamentSource


class TournamentProgress(SearchProgress):
    """Shows a tournament as a search is shown, with the runs that follow the trials.

    Args:
        source: of the runs that are compared.
        tasks: how many; the best of several tasks cannot be named.
        *args: of `SearchProgress`.
    """

    def __init__(self, source: TournamentSource, tasks: int, *args: Any) -> None:
        self._own, self._tasks = source, tasks
        super().__init__(*args)
        self._total += source.total

    @property
    def _done(self) -> int:
        return super()._done + self._own.ended

    def _best(self) -> tuple[str, str] | None:
        return super()._best() if self._tasks == 1 else None
