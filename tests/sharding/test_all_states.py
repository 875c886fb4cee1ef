"""The states of each optimizer of the list go on exactly from a distributed checkpoint."""

from __future__ import annotations

import pytest

from tests.optimizers.running import NAMES, class_of
from tests.sharding.saving import check

#: L-BFGS wants a closure, and SparseAdam sparse gradients.
CLASSES = [class_of(name).__name__ for name in NAMES if name not in ("lbfgs", "sparse_adam")]
#: Each kind of base, and who keeps numbers beside tensors.
BY_DEFAULT = (
    "SOAP",
    "NorMuon",
    "MuonTorch",
    "AdafactorHF",
    "Prodigy",
    "ScheduleFreeAdamW",
    "NAdam",
)
SAMPLED = [
    pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in CLASSES
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("name", SAMPLED)
def test_states_of_all_optimizers_go_on(tmp_path, name, flat):
    check(tmp_path, name, "float64", 2, 3 if flat else 2, flat)
