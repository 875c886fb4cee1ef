"""Makes the rows of a report: runs become settings, and settings choices with a best one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lit_optim.results.data import Row, Run, Setting
from lit_optim.results.grouping import LR, format_setting
from lit_optim.results.lrs import default_lr
from lit_optim.results.statistics import interval, median, rank


def by_trial(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one setting, apart by trial if all are of one search: two trials may be alike."""
    places = [run.place for run in runs]
    if not all(places) or len({place.root for place in places if place}) > 1:
        return [list(runs)]
    parts: dict[tuple[str, str, int | None], list[Run]] = {}
    for run, place in zip(runs, places, strict=True):
        if place is not None:
            parts.setdefault((place.study, place.role, place.trial), []).append(run)
    return list(parts.values())


def make_setting(values: Mapping[str, str], runs: Sequence[Run]) -> Setting:
    """Runs of one setting; of runs that repeat a seed the last one counts, as they are the same."""
    ended = [run for run in runs if run.has_ended]
    others = [run.value for run in runs if not run.has_ended and math.isfinite(run.value)]
    trials = {run.place.trial if run.place else None for run in runs}
    return Setting(
        values,
        _lr(runs[0]),
        runs,
        interval(list(_by_seed(ended).values())),
        interval(others),
        trials.pop() if len(trials) == 1 else None,
    )


def _by_seed(runs: Sequence[Run]) -> dict[str, float]:
    return {run.seed or str(run.directory): run.value for run in runs}


def sample(setting: Setting) -> list[float]:
    """The values of a setting that are averaged: one for each seed."""
    return list(_by_seed([run for run in setting.runs if run.has_ended]).values())


def _lr(run: Run) -> float:
    value = run.settings.get(LR, run.overrides.get(LR))
    try:
        return math.nan if isinstance(value, bool) else float(format_setting(value))
    except (ValueError, OverflowError):
        return math.nan


def order(setting: Setting, mode: str) -> tuple[int, float]:
    """Best first, then those that diverged, that have not ended, and that have no value."""
    if setting.is_diverged:
        return 1, 0.0
    for place, found in ((0, setting.value), (2, setting.so_far)):
        if math.isfinite(found.mean):
            return place, -found.mean if mode == "max" else found.mean
    return 3, 0.0


def make_row(values: Mapping[str, str], settings: Sequence[Setting], mode: str) -> Row:
    """A choice at the best of its settings, without a rank."""
    settings = sorted(settings, key=lambda one: (math.isnan(one.lr), one.lr))
    best = min(settings, key=lambda one: order(one, mode))
    ended = [run for run in best.runs if run.has_ended]
    seconds = [run.seconds for run in ended if math.isfinite(run.seconds)]
    ms = [run.ms_per_step for run in ended if math.isfinite(run.ms_per_step)]
    return Row(
        values=values,
        settings=settings,
        best=best,
        edge=find_edge(best, settings),
        default_lr=default_lr(best.runs[0]),
        rank=None,
        is_tied=False,
        steps_to_target=math.nan,
        seconds=median(seconds),
        ms_per_step=median(ms),
        counts=Counter(run.status for one in settings for run in one.runs),
    )


def find_edge(best: Setting, settings: Sequence[Setting]) -> str:
    """Whether the best lr is the first or the last of those that have come to an end."""
    tried = {one.lr for one in settings if one.value.count and math.isfinite(one.lr)}
    if len(tried) < 2 or best.lr not in tried:
        return ""
    return {min(tried): "first", max(tried): "last"}.get(best.lr, "")


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows with their ranks, in their order; those that diverged or have no value have none."""
    known = [row for row in rows if _has_value(row.best)]
    ranks = rank([sample(row.best) for row in known])
    shared = Counter(ranks)
    ranked = [
        replace(row, rank=place, is_tied=shared[place] > 1)
        for row, place in zip(known, ranks, strict=True)
    ]
    return [*ranked, *(row for row in rows if not _has_value(row.best))]


def _has_value(setting: Setting) -> bool:
    return math.isfinite(setting.value.mean) and not setting.is_diverged
