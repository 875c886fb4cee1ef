"""A tournament whose runs are made up: each ends in a moment, with a value of a closed form."""

from __future__ import annotations

from functools import partial

from lit_optim.results.tournament_record import Entry, Task, Tournament, TournamentSettings
from lit_optim.search.store import open_store
from lit_optim.search.studies import job_lines
from lit_optim.tournament.crashes import SharedCrashes
from lit_optim.tournament.source import TournamentSource, find_best
from tests.search.made_up import run, search, study

NAMES = ("adamw", "sgd")
SEEDS = (7, 8)


def run_tournament(where, started=1.0, **given):
    """Run a tournament of two contestants, or be a worker of it; returns what `run` does."""
    studies = [study(name, (f"optimizer={name}",)) for name in NAMES]
    searched = search(*studies, trials=3, sampler="tpe", seeds=[0], seed=3)
    untuned = [(f"optimizer={name}", "++optimizer.lr=0.001") for name in NAMES]
    entries = [Entry(n, n, 100, untuned=u) for n, u in zip(NAMES, untuned, strict=True)]
    tournament = Tournament("optimizer", [Task({}, entries)], TournamentSettings(seeds=SEEDS))
    store = open_store(searched, where)
    store.begin()

    def wrap(trials, store, plan):
        best = partial(find_best, store)
        crashes = SharedCrashes(plan.run_dir, started)
        return TournamentSource(trials, tournament, studies, best, job_lines, plan.add, crashes)

    return run(searched, where, store=store, wrap=wrap, **given)
