"""Stores in memory, and searches for the least value of a function."""

from __future__ import annotations

import math
from pathlib import Path

from optuna.storages import InMemoryStorage

from lit_optim.search.data import Search, Settings, Study, TrialEnd
from lit_optim.search.storages import OpenStorage
from lit_optim.search.store import Store


def memory_store(study: Study, storage: InMemoryStorage | None = None, **settings: object) -> Store:
    """A store of one study, not begun."""
    opened = OpenStorage(storage or InMemoryStorage(), "memory")
    return Store(Search((), [study], Settings(**settings)), opened, Path("sweep"))  # type: ignore[arg-type]


def run_trial(store: Store, study: Study, number: int, function) -> None:
    """Propose a trial and tell what the function says of it; not finite: it diverged."""
    trial = store.propose(study, number)
    value = function(trial.values)
    kind = "completed" if math.isfinite(value) else "diverged"
    store.tell(trial, TrialEnd(kind, value if kind == "completed" else None))


def proposals(store: Store, study: Study, function) -> list[dict[str, object]]:
    """What a search proposes, one trial after another."""
    store.begin()
    for number in store.unfinished(study):
        run_trial(store, study, number, function)
    return [dict(trial.values) for trial, _ in store.ends(study)]
