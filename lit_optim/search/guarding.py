"""A storage whose content may be a stranger's, or damaged: what Optuna returns is checked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from lit_optim.errors import show
from lit_optim.search.forwarding import Forwarding
from lit_optim.search.unusable import ANSWERS, StorageFailed, blame
from lit_optim.untrusted import check_values

#: Methods of which a KeyError is an answer: there is no such study or trial.
LOOKUPS = ("get_study_id_from_name", "get_trial_id_from_study_id_trial_number")


class Guarded(Forwarding):
    """A storage whose errors are one line, and whose trials are what Optuna says they are."""

    def __init__(self, storage: BaseStorage, name: str) -> None:
        super().__init__(storage, name)
        #: The ids of finished trials that have been checked: no storage changes them again.
        self._checked: set[int] = set()

    def _call(self, method: str, *arguments: Any, **more: Any) -> Any:
        with blame(self.name, (*ANSWERS, KeyError) if method in LOOKUPS else ANSWERS):
            return getattr(self.storage, method)(*arguments, **more)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """`get_trial` of the storage."""
        trial: FrozenTrial = self._call("get_trial", trial_id)
        self._check(trial)
        return trial

    def get_all_trials(self, *arguments: Any, **more: Any) -> list[FrozenTrial]:
        """`get_all_trials` of the storage."""
        trials: list[FrozenTrial] = self._call("get_all_trials", *arguments, **more)
        for trial in trials:
            self._check(trial)
        return trials

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """`get_study_user_attrs` of the storage."""
        attributes: dict[str, Any] = self._call("get_study_user_attrs", study_id)
        check_values(self.name, attributes)
        return attributes

    def _check(self, trial: FrozenTrial) -> None:
        if trial._trial_id in self._checked:
            return
        where = f"{self.name}: trial {show(trial.number)}"
        with blame(where):
            check_values(where, [trial.user_attrs, trial.system_attrs])
            if fault := _find_fault(trial):
                raise StorageFailed(f"{where}: {fault}")
            # what Optuna itself demands of a value, and of parameters and their distributions
            create_trial(
                state=trial.state,
                values=trial.values,
                params=trial.params,
                distributions=trial.distributions,
            )
        if trial.state.is_finished():
            self._checked.add(trial._trial_id)


def _find_fault(trial: Any) -> str:  # whose annotations are only what it should be
    """What a trial has that Optuna does not write; empty if there is nothing."""
    state, start, end, values = (
        trial.state,
        trial.datetime_start,
        trial.datetime_complete,
        trial.values,
    )
    if type(trial.number) is not int or trial.number < 0:
        return "its number is none"
    if not isinstance(state, TrialState):
        return f"has the state {show(state)}"
    if not isinstance(start, datetime) and (state is not TrialState.WAITING or start):
        return f"began at {show(start)}"
    if not isinstance(end, datetime) if state.is_finished() else end is not None:
        return f"ended at {show(end)}, and its state is {state.name}"
    if values is not None and not (
        isinstance(values, list) and len(values) == 1 and _is_number(values[0])
    ):
        return f"has the value {show(values)}, which is not a number"
    for step, value in trial.intermediate_values.items():
        if type(step) is not int or not (_is_number(value) or value != value):
            return f"has the value {show(value)} after {show(step)} updates"
    if not all(
        isinstance(key, str) for key in (*trial.user_attrs, *trial.system_attrs, *trial.params)
    ):
        return "has an attribute without a name"
    return ""


def _is_number(value: object) -> bool:
    """Whether a value is a number that can be compared to others."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
