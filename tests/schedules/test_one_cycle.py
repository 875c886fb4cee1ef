"""OneCycleLR equals torch's, even in very short runs."""

from __future__ import annotations

import warnings

import pytest
import torch

from lit_optim.compat.torch_schedules import OneCycleLR
from lit_optim.schedules.durations import Horizon


@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [True, False])
@pytest.mark.parametrize("pct_start", [0.05, 0.1, 0.25, 0.3, 0.35, 0.5])
def test_short_runs_equal_torchs(pct_start, three_phase, anneal_strategy):
    """A phase shorter than an update ends before it begins."""
    settings = {
        "pct_start": pct_start, "three_phase": three_phase, "anneal_strategy": anneal_strategy,
    }  # fmt: skip
    compared = 0
    for total in range(1, 26):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = torch.optim.lr_scheduler.OneCycleLR(
                    optimizer, max_lr=0.1, total_steps=total, **settings
                )
                expected = []
                for step in range(total):
                    group = optimizer.param_groups[0]
                    expected.append((group["lr"], group["momentum"]))
                    optimizer.step()
                    if step + 1 < total:
                        theirs.step()
        except ZeroDivisionError:  # torch's own: a phase of exactly no length
            continue
        curve = OneCycleLR(**settings).curve(Horizon(total))
        momentum = curve.hyperparameter_curves["momentum"]
        for step, (lr, beta) in enumerate(expected):
            assert curve(step, 0.1) == pytest.approx(lr, abs=1e-12)
            assert momentum(step) == pytest.approx(beta, abs=1e-12)
        compared += 1
    assert compared > 20
