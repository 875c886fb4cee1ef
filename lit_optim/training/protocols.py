"""What data can offer to the callbacks of a run; any package may implement it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SkipsBatches(Protocol):
    """A sampler with which a run is resumed in the middle of an epoch."""

    def skip_batches(self, count: int) -> None:
        """Begin the next epoch after its first `count` batches, which an earlier run has seen."""


@runtime_checkable
class AllowsUnevenRanks(Protocol):
    """A data module whose ranks need not have equally many samples in a batch."""

    def allow_uneven_ranks(self, allowed: bool) -> None:
        """Say, before data are loaded, whether gradients are weighed by each rank's samples."""
