"""Compares runs: settings, choices and their best settings, ranks, and the way to a target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lit_optim.errors import UsageError, printable, suggest
from lit_optim.metric_names import best_value, infer_direction, worst_value
from lit_optim.results.data import Interval, Report, Row, Run, Setting
from lit_optim.results.grouping import LR, SEED, format_setting, group_runs
from lit_optim.results.lrs import default_lr
from lit_optim.results.statistics import interval, median, rank
from lit_optim.results.target import AUTO, choose_target, steps_to
from lit_optim.runs.status import Status

NOTHING = Interval(math.nan, math.nan, 0)


def judged_by(runs: Sequence[Run]) -> list[str]:
    """The metrics that runs are judged by, that of most runs first; one at least."""
    named = Counter(run.monitor for run in runs if run.monitor)
    if named:
        return [name for name, _ in named.most_common()]
    logged = Counter(name for run in runs for name in run.history.metrics)
    return ["val/loss" if "val/loss" in logged or not logged else logged.most_common(1)[0][0]]


def compare_all(
    runs: Sequence[Run],
    title: str,
    by: Sequence[str] = (),
    target: float | str | None = AUTO,
    notes: Sequence[str] = (),
) -> list[Report]:
    """A report for each metric and direction that runs are judged by, that of most runs first.

    Runs that do not say by which metric are judged by the first.
    """
    first = judged_by(runs)[0]
    mode = _directions(runs, first)[0]
    parts: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        parts.setdefault((run.monitor, run.mode) if run.monitor else (first, mode), []).append(run)
    ordered = sorted(parts.items(), key=lambda part: (part[0] != (first, mode), -len(part[1])))
    named = len(ordered) > 1  # else these may be runs that have no metric at all
    return [
        compare(part, title, metric if named else None, by, target, () if place else notes)
        for place, ((metric, _), part) in enumerate(ordered)
    ]


def compare(
    runs: Sequence[Run],
    title: str,
    metric: str | None = None,
    by: Sequence[str] = (),
    target: float | str | None = AUTO,
    notes: Sequence[str] = (),
) -> Report:
    """Compare runs by a metric.

    Args:
        runs: at least one.
        title: of the report.
        metric: by its last value; None: the one that the runs are judged by.
        by: the keys that tell rows apart; by default all that differ but the lr and the seed.
        target: of the metric; `auto`: what the choice in the middle reaches, of two the better
            one; None: none.
        notes: for the reader, to which others are added.

    Raises:
        UsageError: the runs are judged by different metrics and none is given, or by one in
            different directions; no run has the metric, or a key.
    """
    metric = _check_metric(runs, metric)
    mode, *others = _directions(runs, metric)
    if others:
        raise UsageError(
            f"the runs disagree whether {printable(metric)} shall be low or high (mode=min, "
            "mode=max); compare them apart"
        )
    runs = _judge(runs, metric, mode)
    keys, groups = group_runs(runs)
    for key in by:
        _check_key(key, runs, groups)
    columns = list(dict.fromkeys(by)) or [key for key in keys if key != LR]
    if not columns:  # only the lr differs
        columns = ["optimizer"] if any("optimizer" in run.choices for run in runs) else keys
    varied = [key for key in keys if key not in columns]
    settings: dict[tuple[str, ...], list[Setting]] = {}
    for values, members in groups:
        row = tuple(values.get(key, "") for key in columns)
        shown = {key: values.get(key, "") for key in (*columns, *varied)}
        settings.setdefault(row, []).append(_setting(shown, members))
    rows = [_row(dict(zip(columns, row, strict=True)), of, mode) for row, of in settings.items()]
    rows.sort(key=lambda row: _order(row.best, mode))
    rows = _ranked(rows)
    notes = [*notes, *_notes(runs, rows, metric)]
    report = Report(title, metric, mode, columns, rows, runs, notes=notes, varied=varied)
    reached, why = choose_target(detailed(report), target)
    return _with_target(replace(report, target=reached, notes=[*notes, *filter(None, [why])]))


def detailed(report: Report) -> Report:
    """The report, or of a single row one whose rows are the settings of that.

    If only the lr was swept, these are what a table compares; figures show them in one row.
    """
    if len(report.rows) != 1 or len(report.rows[0].settings) == 1:
        return report
    [whole] = report.rows
    keys = list(report.varied or report.columns)
    rows = [
        _row({key: one.values.get(key, "") for key in keys}, [one], report.mode)
        for one in whole.settings
    ]
    rows.sort(key=lambda row: _order(row.best, report.mode))
    rows = [replace(row, edge=whole.edge if row.best is whole.best else "") for row in rows]
    return _with_target(replace(report, columns=keys, varied=[], rows=_ranked(rows)))


def _with_target(report: Report) -> Report:
    """A report whose rows have the steps to its target."""
    if math.isnan(report.target):
        return report
    to, mode = report.target, report.mode
    rows = [replace(row, steps_to_target=steps_to(to, row.best, mode)) for row in report.rows]
    return replace(report, rows=rows)


def _check_metric(runs: Sequence[Run], metric: str | None) -> str:
    if metric is None:
        metrics = judged_by(runs)
        if len(metrics) > 1:
            counts = Counter(run.monitor for run in runs)
            named = ", ".join(f"{printable(name)} ({counts[name]})" for name in metrics)
            raise UsageError(
                f"the runs are judged by different metrics: {named}; say --metric, "
                "or see lit-optim results"
            )
        return metrics[0]
    known = dict.fromkeys(name for run in runs for name in _metrics(run))
    if metric not in known:
        near = suggest(metric, known) or f"; they have {', '.join(known) or 'none'}"
        raise UsageError(f"--metric={metric}: no run has it{near}")
    return metric


def _metrics(run: Run) -> list[str]:
    return [*run.finals, *run.history.metrics, *run.tests, *([run.monitor] if run.monitor else [])]


def _directions(runs: Sequence[Run], metric: str) -> list[str]:
    """The modes by which runs are judged by a metric, that of most first; else by its name."""
    said = Counter(run.mode for run in runs if run.monitor == metric)
    return [mode for mode, _ in said.most_common()] or [infer_direction(metric) or "min"]


def _judge(runs: Sequence[Run], metric: str, mode: str) -> list[Run]:
    """The runs with their values of this metric; the diverged ones have the worst of all.

    That is the worst last value of a run that did not diverge, or of any validation of any run.
    Of a diverged run itself only its validations count if there are such: else its value is that
    of the untrained model on a batch or two, which may be far off.
    """
    judged = [_with_metric(run, metric, mode) for run in runs]
    ended = [run for run in judged if run.has_ended]
    known = [run.value for run in ended if run.status is not Status.DIVERGED]
    known += [value for run in judged for value in run.history.metrics.get(metric, ())]
    worst = worst_value(known, mode)
    if math.isnan(worst):
        worst = worst_value([run.value for run in ended], mode)
    return [replace(run, value=worst) if run.status is Status.DIVERGED else run for run in judged]


def _with_metric(run: Run, metric: str, mode: str) -> Run:
    if run.monitor == metric:
        return replace(run, mode=mode)
    logged = [value for value in run.history.metrics.get(metric, ()) if math.isfinite(value)]
    last = run.finals.get(metric, run.tests.get(metric, logged[-1] if logged else math.nan))
    best = best_value(logged or [last], mode)
    if run.status is Status.DIVERGED:
        last = worst_value(logged, mode)
    return replace(run, monitor=metric, mode=mode, value=last, best=run.bests.get(metric, best))


def _check_key(
    key: str, runs: Sequence[Run], groups: Sequence[tuple[Mapping[str, str], Sequence[Run]]]
) -> None:
    known = dict.fromkeys(key for values, _ in groups for key in values)
    if key == SEED:
        raise UsageError(f"--by={key}: rows are means over seeds")
    if key not in known:
        raise UsageError(f"--by={key}: no run has that key{suggest(key, known)}")


def _setting(values: Mapping[str, str], runs: Sequence[Run]) -> Setting:
    """Runs of one setting; of runs that repeat a seed the last one counts, as they are the same."""
    ended = [run for run in runs if run.has_ended]
    others = [run.value for run in runs if not run.has_ended and math.isfinite(run.value)]
    return Setting(
        values, _lr(runs[0]), runs, interval(list(_by_seed(ended).values())), interval(others)
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


def _order(setting: Setting, mode: str) -> tuple[int, float]:
    """Best first, then those that have not ended, then those without any value."""
    for place, found in enumerate((setting.value, setting.so_far)):
        if math.isfinite(found.mean):
            return place, -found.mean if mode == "max" else found.mean
    return 2, 0.0


def _row(values: Mapping[str, str], settings: Sequence[Setting], mode: str) -> Row:
    settings = sorted(settings, key=lambda one: (math.isnan(one.lr), one.lr))
    best = min(settings, key=lambda one: _order(one, mode))
    ended = [run for run in best.runs if run.has_ended]
    seconds = [run.seconds for run in ended if math.isfinite(run.seconds)]
    ms = [run.ms_per_step for run in ended if math.isfinite(run.ms_per_step)]
    return Row(
        values=values,
        settings=settings,
        best=best,
        edge=_edge(best, settings),
        default_lr=default_lr(best.runs[0]),
        rank=None,
        is_tied=False,
        steps_to_target=math.nan,
        seconds=median(seconds),
        ms_per_step=median(ms),
        counts=Counter(run.status for one in settings for run in one.runs),
    )


def _edge(best: Setting, settings: Sequence[Setting]) -> str:
    """Whether the best lr is the first or the last of those that have come to an end."""
    tried = {one.lr for one in settings if one.value.count and math.isfinite(one.lr)}
    if len(tried) < 2 or best.lr not in tried:
        return ""
    return {min(tried): "first", max(tried): "last"}.get(best.lr, "")


def _ranked(rows: Sequence[Row]) -> list[Row]:
    known = [row for row in rows if math.isfinite(row.best.value.mean)]
    ranks = rank([sample(row.best) for row in known])
    shared = Counter(ranks)
    ranked = [
        replace(row, rank=place, is_tied=shared[place] > 1)
        for row, place in zip(known, ranks, strict=True)
    ]
    return [*ranked, *(row for row in rows if not math.isfinite(row.best.value.mean))]


def _notes(runs: Sequence[Run], rows: Sequence[Row], metric: str) -> list[str]:
    notes = []
    without = sum(run.has_ended and math.isnan(run.value) for run in runs)
    if without:
        notes.append(f"{without} of {len(runs)} runs have no {printable(metric)}")
    ended = [one for row in rows for one in row.settings if one.value.count]
    repeated = sum(sum(run.has_ended for run in one.runs) - one.value.count for one in ended)
    if repeated:
        notes.append(
            f"{repeated} runs repeat a seed of the same setting; the last one of each seed counts"
        )
    if sum(one.value.count for one in ended) == len(ended) > 1:
        notes.append("with one run each, differences cannot be tested; run several seeds")
    return notes
