"""Attempts at a trial: Optuna does not change a trial that has ended, so a second one is another.

One that has failed is added to the study again, with its values, and then counts in place of the
first: numbers of trials are those of the first attempts, in the order in which they were added.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from optuna.trial import FrozenTrial, TrialState, create_trial

#: The attribute of a trial with which Optuna itself fixes values before it is run.
FIXED = "fixed_params"
#: Attributes by which Optuna itself marks a trial that repeats one: the number of the first, and
#: of all that have failed.
FIRST, FAILED = "failed_trial", "retry_history"


def group_attempts(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """The attempts at each trial, by the number that the trial has here.

    Args:
        trials: all of a study, as Optuna numbers them.
    """
    groups: list[list[FrozenTrial]] = []
    numbers: dict[int, int] = {}  # by that of Optuna
    for trial in trials:
        first = trial.system_attrs.get(FIRST)
        number = numbers.get(first) if isinstance(first, int) else None
        if number is None:
            number = len(groups)
            groups.append([])
        numbers[trial.number] = number
        groups[number].append(trial)
    return groups


def last_attempts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials as they are numbered here, of each its last attempt."""
    last = (attempts[-1] for attempts in group_attempts(trials))
    return [_with_number(one, number) for number, one in enumerate(last)]


def try_again(attempts: Sequence[FrozenTrial]) -> FrozenTrial:
    """Another attempt at a trial that has failed, as Optuna's own retries are marked."""
    failed = attempts[-1]
    attributes = {FIRST: attempts[0].number, FAILED: [one.number for one in attempts]}
    values = failed.system_attrs.get(FIXED) or failed.params
    if values:  # else it has failed in another program, before it had any
        attributes[FIXED] = values
    return create_trial(state=TrialState.WAITING, system_attrs=attributes)


def _with_number(trial: FrozenTrial, number: int) -> FrozenTrial:
    if trial.number == number:
        return trial
    changed = copy(trial)
    changed.number = number
    return changed
