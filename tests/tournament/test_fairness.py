"""What a tournament says of optimizers that are equal, on a task in closed form."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
from scipy.stats import binom

from lit_optim.results.statistics import interval, rank
from lit_optim.results.tournament_record import Entry, Task, Tournament, TournamentSettings
from lit_optim.search.data import Span, Study, Trial, TrialEnd
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.tournament.crashes import Crashes
from lit_optim.tournament.source import FINAL, TournamentSource, find_best

LRS = [10 ** (-4 + 3 * k / 5) for k in range(6)]
NOISE = 0.05
SPACE = {"optimizer.lr": Span(1e-4, 1e-1, True)}


def loss(lr):
    """The loss that can be expected at an lr."""
    return 0.1 * (math.log10(lr) + 2.3) ** 2


class Trials:
    """The searches of some names, all of one optimizer: each lr once, with noise."""

    def __init__(self, studies, noise):
        self.found = {
            study.name: [
                (Trial(study, n, {"optimizer.lr": lr}), TrialEnd("completed", loss(lr) + noise()))
                for n, lr in enumerate(LRS)
            ]
            for study in studies
        }
        self.is_exhausted = True

    def has_ended(self, study):
        return True

    def take(self):
        return None

    def ends(self, study):
        return self.found[study.name]

    def best(self, study):
        return min(self.found[study.name], key=lambda pair: pair[1].value)


def play(seed, names, n=5, same_search=True):
    """A tournament of one optimizer under several names.

    Returns:
        The values of the final runs by name, the value at which each was chosen, its lr.
    """
    chance = random.Random(seed)
    studies = [Study(name, (), SPACE) for name in names]
    settings = TournamentSettings(seeds=tuple(range(1, n + 1)), untuned=False)
    entries = [Entry(name, name, 10) for name in names]
    trials = Trials(studies, lambda: chance.gauss(0, NOISE))
    if same_search:  # the same seed of the same optimizer: the same runs
        first = [end for _, end in trials.found[names[0]]]
        for study in studies:
            known = trials.found[study.name]
            trials.found[study.name] = [(t, e) for (t, _), e in zip(known, first, strict=True)]
    source = TournamentSource(
        trials, Tournament("optimizer", [Task({}, entries)], settings), studies,
        lambda study: find_best(trials, study), lambda trial, seed: [repr(trial.values), str(seed)],
        lambda lines, place: PlannedJob(tuple(lines), place), Crashes(),
    )  # fmt: skip
    lrs = {s.name: trials.best(s)[0].values["optimizer.lr"] for s in studies}
    values = {name: [] for name in names}
    while (job := source.take()) is not None:
        name, role, _ = job.place.split("/")
        assert role == FINAL
        values[name].append(loss(lrs[name]) + chance.gauss(0, NOISE))
        source.end(job, SimpleNamespace(is_done=True))
    return values, {s.name: trials.best(s)[1].value for s in studies}, lrs


@pytest.mark.parametrize(("count", "games"), [(2, 1500), (4, 200)])
def test_one_optimizer_under_several_names_is_told_apart_by_chance_alone(count, games):
    names = [f"name{k}" for k in range(count)]
    told_apart = 0
    for game in range(games):
        values, _, _ = play(game, names)
        ordered = sorted(values.values(), key=lambda found: sum(found))
        told_apart += max(rank(ordered)) > 1
    assert told_apart <= binom.ppf(0.999, games, 0.05)


def test_the_values_of_a_search_would_say_that_the_best_is_better_than_it_is():
    """Fresh seeds are right on average; the best trial itself is not."""
    fresh, chosen = [], []
    for game in range(400):
        values, said, lrs = play(game, ["a"])
        fresh.append(sum(values["a"]) / 5 - loss(lrs["a"]))
        chosen.append(said["a"] - loss(lrs["a"]))
    known, biased = interval(fresh), interval(chosen)
    assert abs(known.mean) < 2 * known.half
    assert biased.mean < -0.5 * NOISE


def test_an_optimizer_that_is_better_is_told_apart():
    found = 0
    for game in range(100):
        values, _, _ = play(game, ["a", "b"])
        worse = [value + 4 * NOISE for value in values["b"]]
        found += rank([values["a"], worse]) == [1, 2]
    assert found > 95
