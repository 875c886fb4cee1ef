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


def test_a_change_is_told_in_one_line(tmp_path):
    make_store(tmp_path).begin({"": {"model.width": 64, "overrides": ["of earlier versions"]}})
    make_store(tmp_path).begin({"": {"model.width": 64, "model.new": None}})
    with pytest.raises(UsageError) as caught:
        make_store(tmp_path).begin({"": {"model.width": 32}})
    assert str(caught.value) == (
        f"{tmp_path}/study.db: the study was begun with model.width=64, and this line has 32; "
        "a search goes on with what it was begun with"
    )
    space = {**SPACE, "optimizer.lr": Span(1e-3, 1e-1, is_log=True)}
    with pytest.raises(UsageError) as caught:
        make_store(tmp_path, Study("", (), space)).begin({"": {"model.width": 64}})
    assert (
        "optimizer.lr=tag(log,interval(0.0001,0.1)), and this line has tag(log,interval(0.001"
        in (str(caught.value))
    )


PRINTS = {"model.size": 1, "optimizer.lr": 0.01, "data.size": 1}


@pytest.mark.parametrize(
    ("fixed", "prints", "said"),
    [
        ("data=b", {"model.size": 2, "data.size": 2}, "data=a, and this line has b"),
        ("data=a", {"data.size": 2}, "data.size=1, and this line has 2"),
        ("data=a", {"optimizer.lr": 0.025}, ""),
        ("+data=a", {}, ""),
    ],
)
def test_what_was_typed_is_named_and_what_is_searched_is_not(tmp_path, fixed, prints, said):
    """A preset that the data decides gives another lr, which each trial replaces."""
    space, prints = {"optimizer.lr": Span(1e-3, 1e-1, is_log=True)}, PRINTS | prints
    make_store(tmp_path, Study("", ("data=a",), space)).begin({"": PRINTS})
    again = make_store(tmp_path, Study("", (fixed,), space))
    if not said:
        again.begin({"": prints})
        return
    with pytest.raises(UsageError) as caught:
        again.begin({"": prints})
    assert f"was begun with {said};" in str(caught.value)


def test_fewer_trials_than_are_done_are_refused(tmp_path):
    store = make_store(tmp_path)
    store.begin()
    for number in range(3):
        store.tell(store.propose(STUDY, number), TrialEnd("completed", 0.1))
    make_store(tmp_path, trials=3).begin()
    assert make_store(tmp_path, trials=3).unfinished(STUDY) == []
    with pytest.raises(UsageError, match=r"this search has done 3 trials already"):
        make_store(tmp_path, trials=2).begin()


def test_searches_share_a_storage(tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    stores = [
        open_store(Search((), [STUDY], Settings(2, storage=url), name), tmp_path / folder)
        for name, folder in (("one", "a"), ("two", "a"), ("", "a"), ("", "b"))
    ]
    for value, store in enumerate(stores):
        store.begin()
        store.tell(store.propose(STUDY, 0), TrialEnd("completed", float(value)))
    assert [store.best(STUDY)[1].value for store in stores] == [0.0, 1.0, 2.0, 3.0]
    assert not (tmp_path / "a").exists()


def test_a_worker_joins_what_has_begun(tmp_path):
    other = make_store(tmp_path)
    for ask in (other.unfinished, other.ends, lambda study: other.propose(study, 0)):
        with pytest.raises(UsageError, match=r"study.db: has no "):
            ask(STUDY)
    store = make_store(tmp_path)
    store.begin()
    assert other.unfinished(STUDY) == store.unfinished(STUDY)
    mine, others = store.propose(STUDY, 0), other.propose(STUDY, 1)
    assert mine.values != others.values
    other.tell(others, TrialEnd("failed", None))
    assert store.unfinished(STUDY) == [0, 2, 3, 4]
    store.tell(others, TrialEnd("completed", 0.1))  # too late
    assert [end.kind for _, end in store.ends(STUDY)] == ["failed"]
