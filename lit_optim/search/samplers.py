"""Samplers: a new one for each trial, seeded by the trial's number, so nothing is lost by a kill.

Optuna does not store the state of a sampler. One that is made for a trial has none: a search that
was interrupted proposes what it would have proposed. Every argument whose default differs between
versions of Optuna is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import create_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from lit_optim.search.data import Choice, Scalar, Settings, Space, Span
from lit_optim.search.values import shorten

#: What has to see a few trials first; until then points of a Sobol sequence, not random ones.
LEARN = ("tpe", "gp")
MOST_STARTUP_TRIALS = 10


def make_distribution(one: Span | Choice) -> BaseDistribution:
    """A span or a choice as Optuna has it."""
    if isinstance(one, Choice):
        return CategoricalDistribution(one.values)
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.is_log)
    return FloatDistribution(one.low, one.high, log=one.is_log)


def count_startup_trials(space: Space) -> int:
    """How many trials come before what learns begins: 4 of one key, 2 more for each other one."""
    return min(2 + 2 * len(space), MOST_STARTUP_TRIALS)


def propose(
    trials: Sequence[FrozenTrial], number: int, space: Space, settings: Settings
) -> dict[str, Any]:
    """The values of a trial, by key; nothing is written.

    Args:
        trials: all of the study, by number.
        number: of the trial that is to get values.
        space: what is searched.
        settings: the sampler, its seed and the direction.
    """
    name = settings.sampler_of(space)
    ended = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    if name == "qmc" or (name in LEARN and ended < count_startup_trials(space)):
        values = _place_in_space(_sobol_point(settings.seed, number, len(space)), space)
    else:
        sampler = make_sampler(name, space, seed_of(settings.seed, number))
        values = _sample(sampler, trials, number, space, settings.mode)
    return {key: shorten(values[key], one) for key, one in space.items()}


def seed_of(seed: int, number: int) -> int:
    """The seed of the sampler of a trial, the same with every version of numpy."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def make_sampler(name: str, space: Space, seed: int) -> BaseSampler:
    """A sampler of Optuna for one trial.

    Args:
        name: `tpe`, `gp` or `random`; a grid has no more points: `random` takes over.
        space: what is searched.
        seed: of this trial.
    """
    startup = count_startup_trials(space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in Optuna 4 some arguments are experimental
        if name == "tpe":
            return TPESampler(
                seed=seed,
                n_startup_trials=startup,
                n_ei_candidates=24,
                multivariate=False,  # Optuna 5 has changed what it means
                group=False,
                constant_liar=True,
            )
        if name == "gp":
            return GPSampler(
                seed=seed,
                independent_sampler=RandomSampler(seed=seed),
                n_startup_trials=startup,
                deterministic_objective=False,
            )
    return RandomSampler(seed=seed)


def _sample(
    sampler: BaseSampler, trials: Sequence[FrozenTrial], number: int, space: Space, mode: str
) -> dict[str, Any]:
    """What `Study.ask` does, on a copy of the study: some samplers write to it as well."""
    study = create_study(
        storage=InMemoryStorage(),
        direction="minimize" if mode == "min" else "maximize",
        sampler=sampler,
        pruner=NopPruner(),
    )
    begun = [trial.number for trial in trials if trial.state is not TrialState.WAITING]
    for trial in trials[: max(number, *begun) + 1]:
        is_this = trial.number == number
        study.add_trial(create_trial(state=TrialState.RUNNING) if is_this else trial)
    trial = study.get_trials()[number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler.before_trial(study, trial)
        together = sampler.infer_relative_search_space(study, trial)
        values = dict(sampler.sample_relative(study, trial, together))
        for key, one in space.items():
            if key not in values:
                distribution = make_distribution(one)
                values[key] = sampler.sample_independent(study, trial, key, distribution)
    return values


def _sobol_point(seed: int, number: int, size: int) -> list[float]:
    from scipy.stats import qmc

    engine = qmc.Sobol(size, scramble=True, seed=np.random.default_rng(seed))
    if number:
        engine.fast_forward(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its balance needs a power of two, which comes in time
        return [float(x) for x in engine.random(1)[0]]


def _place_in_space(point: Sequence[float], space: Space) -> dict[str, Any]:
    """The values at a point of the unit cube."""
    pairs = zip(space.items(), point, strict=True)
    return {key: place(one, share) for (key, one), share in pairs}


def place(one: Span | Choice, share: float) -> Scalar:
    """The value at a share of a span or a choice, from 0 to 1."""
    if isinstance(one, Choice):
        return one.values[min(int(share * len(one.values)), len(one.values) - 1)]
    if one.is_whole and one.is_log:  # each whole number has as much room as below
        low, high = np.log(one.low - 0.5), np.log(one.high + 0.5)
        return _clip_whole(round(float(np.exp(low + share * (high - low)))), one)
    if one.is_whole:
        return _clip_whole(int(one.low + share * (one.high - one.low + 1)), one)
    if one.is_log:
        return float(np.exp(np.log(one.low) + share * (np.log(one.high) - np.log(one.low))))
    return one.low + share * (one.high - one.low)


def _clip_whole(value: int, one: Span) -> int:
    return int(min(max(value, one.low), one.high))
