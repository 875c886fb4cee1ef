"""The store of a search: its studies in a storage of Optuna, by ask and tell.

Trials get their numbers once, before any of them runs, so workers cannot start one too many. The
values of a trial are written whole before it is run, so a process that takes it over has the same.
A trial that has failed is tried again when its search is resumed, with the same number and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

from lit_optim.errors import UsageError, how_many, printable, show
from lit_optim.metric_names import worst_value
from lit_optim.search.attempts import FIXED, group_attempts, last_attempts, try_again
from lit_optim.search.changes import LINE, describe_change
from lit_optim.search.data import Search, Study, Trial, TrialEnd
from lit_optim.search.grids import make_grid
from lit_optim.search.opening import open_storage
from lit_optim.search.pruners import make_pruner
from lit_optim.search.samplers import make_distribution, propose
from lit_optim.search.storages import OpenStorage
from lit_optim.search.unusable import ANSWERS, StorageFailed, blame
from lit_optim.search.values import check_values, encode_space

#: Attributes of a study: what it was begun with, and by which version.
ASKED, VERSION = "asked", "optuna"
#: The attribute of a trial that says how it ended.
KIND = "kind"
STATES = {
    "completed": TrialState.COMPLETE,
    "diverged": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
#: The attribute of a trial that has `NO_WORST` for its value.
IS_UNKNOWN = "worst_is_unknown"
#: The value of a diverged trial where nothing finite is known; no other trial is compared to it.
NO_WORST = 1e6


def open_store(search: Search, sweep_dir: Path) -> Store:
    """Open the store of a search; the process that starts it calls `begin` before anything else.

    Raises:
        StorageFailed: the storage cannot be used; says why.
    """
    return Store(search, open_storage(search.settings.storage, sweep_dir), sweep_dir)


class Store:
    """The trials of a search.

    Every method raises `StorageFailed` if the storage is damaged, locked, full or gone.

    Args:
        search: whose studies these are.
        opened: where they are kept.
        sweep_dir: of the search.
    """

    def __init__(self, search: Search, opened: OpenStorage, sweep_dir: Path) -> None:
        self.search, self._opened, self._sweep_dir = search, opened, sweep_dir
        self._loaded: dict[str, OptunaStudy] = {}
        self._attempts: dict[tuple[str, int], int] = {}  # at trials, as Optuna numbers them

    def begin(self, fingerprints: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Create or check each study, and give numbers to the trials up to `settings.trials`.

        Those that have failed are to be tried again.

        Args:
            fingerprints: what is the same in all runs of a study, by the study's name.

        Raises:
            UsageError: a study was begun with another space or other settings, or more trials of
                it are done than are asked for.
        """
        for study in self.search.studies:
            with self._opened.use():
                loaded = self._load(study, is_created=True)
                self._check(study, loaded, (fingerprints or {}).get(study.name, {}))
                self._enqueue(study, loaded)

    def unfinished(self, study: Study) -> list[int]:
        """The numbers of the trials that have not ended; first those that were running."""
        trials = self._trials(study)[: self.search.settings.trials]
        left = [trial for trial in trials if not trial.state.is_finished()]
        left.sort(key=lambda trial: trial.state is not TrialState.RUNNING)
        return [trial.number for trial in left]

    def propose(self, study: Study, number: int) -> Trial | None:
        """Claim a trial and get its values: those of earlier, if it has been proposed before.

        Returns:
            None if the trial has ended meanwhile, in another worker.

        Raises:
            UsageError: the storage has values that are not in the space.
        """
        with self._opened.use() as storage:
            self._attempts[study.name, number] = self._find_attempt(study, number)
            trial_id = self._trial_id(study, number)
            if storage.get_trial(trial_id).state.is_finished():
                return None
            storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            trial = storage.get_trial(trial_id)
            values = trial.system_attrs.get(FIXED)
            if values is None:
                trials = self._known_trials(study)
                values = propose(trials, number, study.space, self.search.settings)
                storage.set_trial_system_attr(trial_id, FIXED, values)
            values = check_values(values, study.space, f"{self._opened.name}: trial {number}")
            for key, value in values.items():
                if key not in trial.params:
                    one = make_distribution(study.space[key])
                    storage.set_trial_param(trial_id, key, one.to_internal_repr(value), one)
            return Trial(study, number, values)

    def report(self, trial: Trial, step: int, value: float) -> None:
        """Note a value of the metric while a trial runs; the same step again changes nothing.

        Args:
            trial: that runs.
            step: the updates so far.
            value: of the metric, of the first seed.
        """
        with self._opened.use() as storage:
            trial_id = self._trial_id(trial.study, trial.number)
            known = storage.get_trial(trial_id)
            if step not in known.intermediate_values and not known.state.is_finished():
                storage.set_trial_intermediate_value(trial_id, step, value)

    def should_prune(self, trial: Trial, length: int | None) -> bool:
        """Whether to stop a trial, by the values that were reported.

        Args:
            trial: that runs.
            length: the updates of a whole run; None: unknown, then nothing is pruned.
        """
        with self._opened.use() as storage:
            pruner = make_pruner(self.search.settings.pruner, length)
            known = storage.get_trial(self._trial_id(trial.study, trial.number))
            if known.state.is_finished():
                return False
            study = self._load(trial.study)
            with blame(self._opened.name):  # Optuna's pruners keep notes in the storage
                return pruner.prune(study, known)

    def tell(self, trial: Trial, end: TrialEnd) -> None:
        """Note how a trial ended. Nothing changes if it has already ended.

        A diverged trial, or one without a finite value, is told as the worst finite value of the
        study: samplers ignore failures, and would propose such values again and again.
        """
        with self._opened.use() as storage:
            trial_id = self._trial_id(trial.study, trial.number)
            if storage.get_trial(trial_id).state.is_finished():
                return
            kind, value = end.kind, end.value
            if value is not None and not math.isfinite(value):
                value = None
            if kind == "completed" and value is None:
                kind = "diverged"
            state = STATES[kind]
            if kind == "pruned" and self._learns_nothing_from_pruned(trial.study):
                state = TrialState.COMPLETE
            attributes = {**end.attributes, KIND: kind}
            if kind == "diverged" or (state is TrialState.COMPLETE and value is None):
                value = self._worst(self._read(trial.study), value)
                if value is None:
                    value = NO_WORST if self.search.settings.mode == "min" else -NO_WORST
                    attributes[IS_UNKNOWN] = True
            for name, attribute in attributes.items():
                storage.set_trial_user_attr(trial_id, name, attribute)
            values = None if kind == "failed" or value is None else [float(value)]
            storage.set_trial_state_values(trial_id, state, values)

    def ends(self, study: Study) -> list[tuple[Trial, TrialEnd]]:
        """The trials that have ended, by number, and how."""
        return [
            (Trial(study, trial.number, dict(trial.params)), _read_end(trial))
            for trial in self._trials(study)
            if trial.state.is_finished()
        ]

    def best(self, study: Study) -> tuple[Trial, TrialEnd] | None:
        """The best of the trials that were completed; of equals the first."""
        ended = [pair for pair in self.ends(study) if pair[1].kind == "completed"]
        sign = 1 if self.search.settings.mode == "min" else -1
        return min(ended, key=lambda pair: sign * (pair[1].value or 0.0), default=None)

    def _trials(self, study: Study) -> list[FrozenTrial]:
        """The trials by number, of each the last attempt."""
        with self._opened.use():
            return last_attempts(self._read(study))

    @property
    def _direction(self) -> Literal["minimize", "maximize"]:
        return "minimize" if self.search.settings.mode == "min" else "maximize"

    def _read(self, study: Study) -> list[FrozenTrial]:
        """All trials of a study, as Optuna numbers them.

        Raises:
            UsageError: one has parameters that are not searched here, or not within the space.
        """
        trials = self._load(study).get_trials(deepcopy=False)
        known = {key: make_distribution(one) for key, one in study.space.items()}
        for trial in trials:
            where = f"{self._opened.name}: trial {trial.number}"
            for key, one in trial.distributions.items():
                if known.get(key) != one:
                    raise UsageError(f"{where}: has {printable(key)} in {show(one)}")
            check_values(trial.params, {key: study.space[key] for key in trial.params}, where)
        return trials

    def _find_attempt(self, study: Study, number: int) -> int:
        """Optuna's number of the last attempt at a trial; the trial's own, where there is none."""
        groups = group_attempts(self._read(study))
        return groups[number][-1].number if number < len(groups) else number

    def _trial_id(self, study: Study, number: int) -> int:
        storage = self._opened.storage
        if (study.name, number) not in self._attempts:
            self._attempts[study.name, number] = self._find_attempt(study, number)
        try:
            study_id = storage.get_study_id_from_name(self._name(study))
            attempt = self._attempts[study.name, number]
            return storage.get_trial_id_from_study_id_trial_number(study_id, attempt)
        except KeyError:
            name = printable(self._name(study))
            message = f"{self._opened.name}: has no trial {number} of {name!r}"
            raise StorageFailed(message) from None

    def _name(self, study: Study) -> str:
        """The name of a study in the storage, where other searches may be as well."""
        if self.search.settings.storage is None:
            return study.name or "search"
        own = self.search.name or "/".join(self._sweep_dir.resolve().parts[-2:])
        return f"{own}/{study.name}" if study.name else own

    def _load(self, study: Study, is_created: bool = False) -> OptunaStudy:
        """A study of the storage, which is created if it is missing and that is asked for."""
        if study.name in self._loaded:
            return self._loaded[study.name]
        name = self._name(study)
        parts: dict[str, Any] = {
            "storage": self._opened.storage,
            "study_name": name,
            "sampler": optuna.samplers.RandomSampler(),
            "pruner": optuna.pruners.NopPruner(),
        }
        try:
            with blame(self._opened.name, (*ANSWERS, KeyError)):
                loaded = (
                    optuna.create_study(
                        **parts,
                        direction=self._direction,
                        load_if_exists=True,
                    )
                    if is_created
                    else optuna.load_study(**parts)
                )
        except KeyError:
            raise StorageFailed(f"{self._opened.name}: has no study {printable(name)!r}") from None
        self._loaded[study.name] = loaded
        return loaded

    def _check(self, study: Study, loaded: OptunaStudy, fingerprint: Mapping[str, Any]) -> None:
        settings = self.search.settings
        asked = {
            "search.space": encode_space(study.space),
            "search.metric": f"{settings.metric} ({settings.mode}, {settings.at})",
            "search.seeds": list(settings.seeds),
            LINE: sorted(study.fixed),
            **fingerprint,
        }
        # what makes no difference: searched values, and another way to type the same
        skipped = {*study.space, *([LINE] if fingerprint else [])}
        before = loaded.user_attrs.get(ASKED)
        if before is None and loaded.get_trials(deepcopy=False):
            name = printable(loaded.study_name)
            raise UsageError(f"{self._opened.name}: study {name!r} belongs to another program")
        if before is None:
            loaded.set_user_attr(ASKED, asked)
        elif change := describe_change(study, before, asked, skipped):
            raise UsageError(f"{self._opened.name}: {change}")
        if [one.name.lower() for one in loaded.directions] != [self._direction]:
            raise StorageFailed(f"{self._opened.name}: is not to {self._direction} one value")
        if loaded.user_attrs.get(VERSION) != optuna.__version__:
            loaded.set_user_attr(VERSION, optuna.__version__)

    def _enqueue(self, study: Study, loaded: OptunaStudy) -> None:
        """Give numbers to the trials up to the budget; those of a grid have values at once.

        A trial that has failed is added again, with its values.
        """
        settings = self.search.settings
        attempts = group_attempts(self._read(study))
        trials = [one[-1] for one in attempts]
        done = max((n for n, one in enumerate(trials, 1) if one.state.is_finished()), default=0)
        if done > settings.trials:
            raise UsageError(
                f"search.trials={settings.trials}: this search has done "
                f"{how_many(done, 'trial')} already; ask for as many or more"
            )
        points: list[dict[str, Any] | None] = [None] * (settings.trials - len(trials))
        if points and settings.sampler_of(study.space) == "grid":
            known = [trial.system_attrs.get(FIXED) or trial.params for trial in trials]
            points = list(make_grid(study.space, settings.trials, known))
        for point in points:
            attributes = None if point is None else {FIXED: point}
            loaded.add_trial(create_trial(state=TrialState.WAITING, system_attrs=attributes))
        for one in attempts:
            if one[-1].state is TrialState.FAIL:
                loaded.add_trial(try_again(one))

    def _learns_nothing_from_pruned(self, study: Study) -> bool:
        return self.search.settings.sampler_of(study.space) == "gp"

    def _known_trials(self, study: Study) -> list[FrozenTrial]:
        """The trials, with what is the worst value by now for those that diverged."""
        trials = last_attempts(self._read(study))
        worst = self._worst(trials)
        if worst is None:
            return trials
        return [_with_value(one, worst) if _has_diverged(one) else one for one in trials]

    def _worst(self, trials: Sequence[FrozenTrial], value: float | None = None) -> float | None:
        """The worst finite value of trials, and of a value if there is one; None: none is known."""
        known = [one.values[0] for one in trials if one.values and not _is_unknown(one)]
        worst = worst_value(known if value is None else [*known, value], self.search.settings.mode)
        return None if math.isnan(worst) else worst


def _is_unknown(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get(IS_UNKNOWN))


def _has_diverged(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get(KIND) == "diverged" and trial.values)


def _with_value(trial: FrozenTrial, value: float) -> FrozenTrial:
    changed = copy(trial)
    changed.values = [value]
    return changed


def _read_end(trial: FrozenTrial) -> TrialEnd:
    attributes = dict(trial.user_attrs)
    kind = attributes.pop(KIND, None)
    value = trial.values[0] if trial.values else None
    is_known = any(kind == one for one in STATES) and (kind != "completed" or value is not None)
    if trial.state is TrialState.FAIL or not is_known:  # of another program
        kinds = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned"}
        kind = kinds.get(trial.state, "failed")
    return TrialEnd(kind, value, attributes)
