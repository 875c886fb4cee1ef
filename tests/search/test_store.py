"""The store: numbers once, values kept, ends told so that samplers learn."""

from __future__ import annotations

import pytest

from lit_optim.errors import UsageError
from lit_optim.search.data import Choice, Search, Settings, Span, Study, TrialEnd
from lit_optim.search.store import open_store

SPACE = {"optimizer.lr": Span(1e-4, 1e-1, is_log=True), "width": Span(4, 64, is_whole=True)}
STUDY = Study("", ("optimizer=adamw",), SPACE)


def make_store(folder, study=STUDY, **settings):
    return open_store(
        Search((), [study], Settings(**{"trials": 5, "sampler": "tpe", **settings})), folder
    )


def test_a_search_goes_on_with_the_values_that_it_had(tmp_path):
    store = make_store(tmp_path)
    store.begin()
    assert store.unfinished(STUDY) == [0, 1, 2, 3, 4]
    first, second = store.propose(STUDY, 0), store.propose(STUDY, 1)
    store.report(first, 10, 0.5)
    store.tell(first, TrialEnd("completed", 0.4, {"seconds": 2.0}))
    later = make_store(tmp_path, trials=7)
    later.begin()
    assert later.unfinished(STUDY) == [1, 2, 3, 4, 5, 6]
    assert later.propose(STUDY, 0) is None
    assert later.propose(STUDY, 1) == second
    assert later.ends(STUDY) == [(first, TrialEnd("completed", 0.4, {"seconds": 2.0}))]
    assert later.best(STUDY) == (first, TrialEnd("completed", 0.4, {"seconds": 2.0}))


@pytest.mark.parametrize(("mode", "worst"), [("min", 0.9), ("max", 0.2)])
def test_a_diverged_trial_has_the_worst_finite_value(tmp_path, mode, worst):
    store = make_store(tmp_path, mode=mode)
    store.begin()
    ends = [
        ("completed", 0.2),
        ("completed", 0.9),
        ("diverged", None),
        ("failed", None),
        ("pruned", 0.3),
    ]
    for number, (kind, value) in enumerate(ends):
        store.tell(store.propose(STUDY, number), TrialEnd(kind, value))
    told = [(end.kind, end.value) for _, end in store.ends(STUDY)]
    assert told == [*ends[:2], ("diverged", worst), *ends[3:]]
    assert store.unfinished(STUDY) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"study": Study("", ("optimizer=adamw",), {**SPACE, "width": Choice((4, 8))})}, "width"),
        ({"study": Study("", ("optimizer=sgd",), SPACE)}, "overrides"),
        ({"seeds": (0, 1)}, "search.seeds"),
        ({"at": "best"}, "search.metric"),
    ],
)
def test_another_search_is_refused(tmp_path, change, named):
    make_store(tmp_path).begin()
    with pytest.raises(UsageError, match=named):
        make_store(tmp_path, **change).begin()
