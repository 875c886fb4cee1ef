"""How long a run is: one rule for a configuration and for a trainer."""

from __future__ import annotations

import math

from lit_optim.errors import UsageError

#: Values of `max_steps` and `max_epochs` that set no limit.
UNLIMITED = (None, -1)


def require_updates(max_steps: int | None, max_epochs: int | None) -> None:
    """Refuse a run of no update.

    Raises:
        UsageError: naming the keys.
    """
    if max_steps == 0 or max_epochs == 0:
        raise UsageError("nothing to train: trainer.max_steps or trainer.max_epochs is 0")


def count_updates_of_run(
    max_steps: float | None, max_epochs: float | None, per_epoch: float | None = None
) -> int | None:
    """Count the updates of a run, which ends at the first of its limits.

    Args:
        max_steps: the limit in updates, None or -1 if there is none.
        max_epochs: the limit in epochs, likewise.
        per_epoch: the updates of an epoch; infinity if it has no end; None if it is unknown.

    Returns:
        None if there is no limit, or one in epochs of unknown length.
    """
    limits = [] if max_steps in UNLIMITED else [max_steps]
    if max_epochs not in UNLIMITED:
        if per_epoch is None:
            return None
        limits.append(max_epochs * per_epoch)
    least = min(limits, default=math.inf)
    return int(least) if math.isfinite(least) else None
