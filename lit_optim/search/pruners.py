"""Pruners: which trials are stopped early, with every argument given."""

from __future__ import annotations

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PercentilePruner

#: Trials that are never pruned, as there is nothing yet to compare with.
STARTUP_TRIALS = 3
#: As a share of a run: earlier, the order of trials says little about the order at the end.
WARMUP = 0.5
#: Trials among the best of this many percent go on.
PERCENTILE = 75.0
#: For hyperband: one in so many trials goes on, each time.
REDUCTION_FACTOR = 3
#: The share of a run at which hyperband looks first: with a factor of 3, twice before the end.
FIRST_LOOK = 1 / 9


def make_pruner(name: str, length: int | None) -> BasePruner:
    """A pruner for runs of one length.

    Args:
        name: `none`, `median` or `percentile`, both after half of the run, or `hyperband`.
        length: the updates of a run; None: unknown, then nothing is pruned.
    """
    if name == "none" or length is None:
        return NopPruner()
    warmup = round(WARMUP * length)
    if name == "median":
        return MedianPruner(
            n_startup_trials=STARTUP_TRIALS, n_warmup_steps=warmup, interval_steps=1, n_min_trials=1
        )
    if name == "percentile":
        return PercentilePruner(
            PERCENTILE,
            n_startup_trials=STARTUP_TRIALS,
            n_warmup_steps=warmup,
            interval_steps=1,
            n_min_trials=1,
        )
    return HyperbandPruner(
        min_resource=max(round(length * FIRST_LOOK), 1),
        max_resource=max(length, 1),
        reduction_factor=REDUCTION_FACTOR,
        bootstrap_count=0,
    )
