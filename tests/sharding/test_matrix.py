"""Every optimizer and wrapper trains sharded what it trains alone, or says why not.

By default a fair sample; `-m slow` runs the whole matrix of optimizers, layouts and scenarios.
"""

from __future__ import annotations

import pytest

from tests.sharding.layouts import LAYOUTS
from tests.sharding.matrix import NAMES, Place, draw, judge, scenarios_of
from tests.sharding.table import column_of, read_cells

#: How many places of each optimizer are tried by default.
EACH = 2
#: Optimizers that need not train sharded: their steps are those of torch, on whole vectors or rows.
MAY_REFUSE = {"lbfgs", "sparse_adam"}
#: Layouts under which all others train.
PROMISED = [layout for layout in LAYOUTS if layout.startswith(("fsdp2", "hsdp", "ddp"))]


def check(place: Place, world: int | None = None) -> None:
    """The processes train what one trains, or refuse, as the table of the page says."""
    kind, value = judge(place, world)
    cell = read_cells()[place.optimizer][column_of(place.layout)]
    if kind == "refused":
        assert place.optimizer in MAY_REFUSE or place.layout not in PROMISED, value
        assert cell != "yes", f"{place}: {value}"
    else:
        assert kind in ("equal", "excepted", "skipped"), f"{place}: {kind}: {value}"
        assert cell.startswith("yes") or kind == "skipped", place


@pytest.mark.sampled(30)
@pytest.mark.parametrize("number", range(EACH))
@pytest.mark.parametrize("optimizer", NAMES)
def test_a_sample_trains_what_one_process_trains(optimizer, number):
    """In a world of four; a smaller layout is on the first of them."""
    check(draw(optimizer, number, EACH), 4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", NAMES)
def test_all_train_what_one_process_trains(optimizer, layout):
    faults = []
    for scenario in scenarios_of(optimizer):
        try:
            check(Place(optimizer, layout, scenario))
        except AssertionError as fault:
            faults.append(str(fault))
    assert not faults, "\n".join(faults)
