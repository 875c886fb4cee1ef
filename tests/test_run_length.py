"""The length of a run, from the limits of a trainer."""

from __future__ import annotations

import math

import pytest

from lit_optim.errors import UsageError
from lit_optim.run_length import count_updates_of_run, require_updates


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "per_epoch", "updates"),
    [
        (23, None, None, 23),
        (23, -1, 10, 23),
        (-1, 3, 10, 30),
        (12, 3, 10, 12),
        (500, 1, 10, 10),
        (12, 3, math.inf, 12),
        (12, 3, None, None),
        (-1, 3, math.inf, None),
        (-1, None, 10, None),
        (None, -1, None, None),
    ],
)
def test_a_run_ends_at_its_first_limit(max_steps, max_epochs, per_epoch, updates):
    assert count_updates_of_run(max_steps, max_epochs, per_epoch) == updates


@pytest.mark.parametrize(("max_steps", "max_epochs"), [(0, None), (-1, 0), (0, 0)])
def test_a_run_of_no_update_is_refused(max_steps, max_epochs):
    with pytest.raises(UsageError, match="nothing to train"):
        require_updates(max_steps, max_epochs)
