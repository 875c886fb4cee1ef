"""What those who run trials need of a store of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lit_optim.search.data import Study, Trial, TrialEnd


class TrialStore(Protocol):
    """What a source needs of a store: `lit_optim.search.store.Store`."""

    def unfinished(self, study: Study) -> Sequence[int]:
        """The numbers of the trials that have not ended; first those that were running."""

    def propose(self, study: Study, number: int) -> Trial | None:
        """Claim a trial; None if it has ended meanwhile."""

    def report(self, trial: Trial, step: int, value: float) -> None:
        """Note a value of a trial that runs."""

    def should_prune(self, trial: Trial, length: int | None) -> bool:
        """Whether to stop a trial, in a run of so many updates."""

    def tell(self, trial: Trial, end: TrialEnd) -> None:
        """Note how a trial ended."""

    def ends(self, study: Study) -> Sequence[tuple[Trial, TrialEnd]]:
        """The trials that have ended, by number."""
