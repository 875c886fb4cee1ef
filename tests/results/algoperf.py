"""AlgoPerf's score, computed as its authors do."""

from __future__ import annotations

import numpy as np


def score_as_algoperf(times: np.ndarray, max_tau: float = 4.0, points: int = 100) -> np.ndarray:
    """The scores by AlgoPerf's rules, for a table with a row for each submission.

    Times to the target are divided by the fastest of each workload. The profile at τ is the
    fraction of workloads with a ratio of at most τ; the score its integral by the trapezoidal rule
    over 100 values of τ, evenly from 1 to 4, divided by 3.
    """
    with np.errstate(invalid="ignore"):
        ratios = times / np.nanmin(times, axis=0)
        taus = np.linspace(1.0, max_tau, points)
        rho = np.stack([(ratios <= tau).sum(axis=1) / times.shape[1] for tau in taus], axis=1)
    area = ((rho[:, 1:] + rho[:, :-1]) / 2 * np.diff(taus)).sum(axis=1)
    return area / (max_tau - 1)
